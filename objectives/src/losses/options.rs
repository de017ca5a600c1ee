//! Options that several losses share.

/// Declares a loss's configuration: its own keys, and those shared ones that have an effect on it.
///
/// Written out by a macro, not flattened by serde, so that unknown keys and wrong types are reported
/// under their own names.
macro_rules! options {
    (
        [$($option:ident),*]
        $(#[$meta:meta])*
        pub struct $name:ident { $($own:tt)* }
    ) => {
        options! { @add [$($option)*] [$(#[$meta])*] $name { $($own)* } }
    };
    (@add [f_divergence $($rest:ident)*] [$($meta:tt)*] $name:ident { $($fields:tt)* }) => {
        options! { @add [$($rest)*] [$($meta)*] $name {
            $($fields)*
            /// Divergence from the reference that is penalised: `"reverse_kl"`, `"forward_kl"`,
            /// `"js_divergence"`, or `{ alpha_divergence = ALPHA }` (TRL's default for it is 0.5).
            #[serde(default)]
            pub f_divergence: $crate::losses::FDivergence,
        } }
    };
    (@add [ld_alpha $($rest:ident)*] [$($meta:tt)*] $name:ident { $($fields:tt)* }) => {
        options! { @add [$($rest)*] [$($meta)*] $name {
            $($fields)*
            /// Length desensitisation (LD-DPO): tokens beyond the length of the pair's shorter answer
            /// count this much. 1 is the plain sum.
            #[serde(default = "crate::losses::options::one")]
            #[schemars(range(min = 0, max = 1))]
            pub ld_alpha: f64,
        } }
    };
    (@add [use_weighting $($rest:ident)*] [$($meta:tt)*] $name:ident { $($fields:tt)* }) => {
        options! { @add [$($rest)*] [$($meta)*] $name {
            $($fields)*
            /// Weigh each pair by how probable its answers are under the policy now (WPO).
            #[serde(default)]
            pub use_weighting: bool,
        } }
    };
    (@add [] [$($meta:tt)*] $name:ident { $($fields:tt)* }) => {
        $($meta)*
        #[derive(Clone, Debug, ::serde::Deserialize, ::schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($fields)* }
    };
}

pub(super) fn one() -> f64 {
    1.0
}

pub(super) fn tenth() -> f64 {
    0.1
}

pub(super) fn half() -> f64 {
    0.5
}
