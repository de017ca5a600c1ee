//! Token batches across the plugin ABI, as flat arrays.

use crate::{Group, TokenBatch};

/// [`TokenBatch`] as flat arrays. Prompt `g` is `prompts[prompt_offsets[g]..prompt_offsets[g + 1]]`. Its
/// completions have the numbers `group_offsets[g]..group_offsets[g + 1]`, and completion `c` is
/// `completions[completion_offsets[c]..completion_offsets[c + 1]]`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TokensView {
    /// Size of this struct in bytes.
    pub size: u32,
    /// Number of prompts.
    pub groups: usize,
    /// Token ids of all prompts.
    pub prompts: *const u32,
    /// `groups + 1` offsets, increasing from 0.
    pub prompt_offsets: *const usize,
    /// `groups + 1` offsets, increasing from 0.
    pub group_offsets: *const usize,
    /// Token ids of all completions.
    pub completions: *const u32,
    /// One offset more than there are completions, increasing from 0.
    pub completion_offsets: *const usize,
}

impl TokensView {
    /// # Safety
    /// The arrays have the lengths given by the offsets.
    pub(super) unsafe fn batch(&self) -> TokenBatch {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let slice = |ids: *const u32, offsets: *const usize, i: usize| {
                let (from, to) = (*offsets.add(i), *offsets.add(i + 1));
                std::slice::from_raw_parts(ids.add(from), to - from).to_vec()
            };
            let group = |g: usize| Group {
                prompt: slice(self.prompts, self.prompt_offsets, g),
                completions: (*self.group_offsets.add(g)..*self.group_offsets.add(g + 1))
                    .map(|c| slice(self.completions, self.completion_offsets, c))
                    .collect(),
            };
            TokenBatch { groups: (0..self.groups).map(group).collect() }
        }
    }
}

/// A token batch in flat form; a [`TokensView`] points into it.
pub(super) struct Flat {
    prompts: Vec<u32>,
    prompt_offsets: Vec<usize>,
    group_offsets: Vec<usize>,
    completions: Vec<u32>,
    pub(super) completion_offsets: Vec<usize>,
}

impl Flat {
    pub(super) fn new<'a>(groups: impl Iterator<Item = (&'a Vec<u32>, &'a [Vec<u32>])>) -> Self {
        let mut flat = Flat {
            prompts: vec![],
            prompt_offsets: vec![0],
            group_offsets: vec![0],
            completions: vec![],
            completion_offsets: vec![0],
        };
        for (prompt, completions) in groups {
            flat.prompts.extend(prompt);
            flat.prompt_offsets.push(flat.prompts.len());
            for completion in completions {
                flat.completions.extend(completion);
                flat.completion_offsets.push(flat.completions.len());
            }
            flat.group_offsets.push(flat.completion_offsets.len() - 1);
        }
        flat
    }

    pub(super) fn of(batch: &TokenBatch) -> Self {
        Flat::new(batch.groups.iter().map(|g| (&g.prompt, &*g.completions)))
    }

    pub(super) fn view(&self) -> TokensView {
        TokensView {
            size: size_of::<TokensView>() as u32,
            groups: self.prompt_offsets.len() - 1,
            prompts: self.prompts.as_ptr(),
            prompt_offsets: self.prompt_offsets.as_ptr(),
            group_offsets: self.group_offsets.as_ptr(),
            completions: self.completions.as_ptr(),
            completion_offsets: self.completion_offsets.as_ptr(),
        }
    }
}
