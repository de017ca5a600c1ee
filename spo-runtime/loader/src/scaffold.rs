//! `spo-run plugin new`: writes a plugin that builds and passes its own tests, as a starting point.

use std::path::{Path, PathBuf};

/// The kind of plugin to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// A crate with a loss.
    Loss,
    /// A loss in a C file, with a Makefile.
    LossInC,
    /// A crate with an optimizer.
    Optimizer,
}

/// What to create.
pub struct New<'a> {
    /// The name of the part and of the folder.
    pub name: &'a str,
    /// The folder in which the plugin's folder is created.
    pub within: &'a Path,
    /// The folder of the crate `spo-api`, which a Rust plugin depends on.
    pub api: &'a Path,
    /// The kind of plugin.
    pub template: Template,
}

/// Writes a new plugin and returns its folder.
///
/// # Errors
/// A message, when the name is not valid, the folder already exists, or `spo-api` is not in the given
/// folder.
pub fn scaffold(new: &New<'_>) -> Result<PathBuf, String> {
    let name = new.name;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(plain) {
        return Err(format!("`{name}` cannot be a name: lower-case letters, digits and `-`, a letter first"));
    }
    let file = name.replace('-', "_");
    let library = format!("{}{file}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let mut api = String::new();
    if new.template != Template::LossInC {
        let missing = |_| {
            let at = new.api.display();
            format!("there is no {at}: say with --api where the folder `spo-api` of a checkout of spo is")
        };
        let absolute = new.api.join("Cargo.toml").canonicalize().map_err(missing)?;
        api = absolute.parent().unwrap_or(&absolute).display().to_string();
    }
    let folder = new.within.join(name);
    let fail = |e: std::io::Error| format!("cannot make {}: {e}", folder.display());
    std::fs::create_dir_all(new.within).and_then(|()| std::fs::create_dir(&folder)).map_err(fail)?;
    let fill = |template: &str| {
        template
            .replace("@NAME@", name)
            .replace("@TYPE@", &camel(name))
            .replace("@FILE@", &file)
            .replace("@LIBRARY@", &library)
            .replace("@API@", &api)
    };
    const CRATE: &str = include_str!("../templates/Cargo.toml.in");
    let files: &[(&str, &str)] = match new.template {
        Template::Loss => &[
            ("Cargo.toml", CRATE),
            ("src/lib.rs", include_str!("../templates/loss/src/lib.rs")),
            ("README.md", include_str!("../templates/loss/README.md.in")),
            (".gitignore", "/target\n"),
        ],
        Template::Optimizer => &[
            ("Cargo.toml", CRATE),
            ("src/lib.rs", include_str!("../templates/optimizer/src/lib.rs")),
            ("README.md", include_str!("../templates/optimizer/README.md.in")),
            (".gitignore", "/target\n"),
        ],
        Template::LossInC => &[
            ("@FILE@.c", include_str!("../templates/loss-in-c/loss.c")),
            ("spo.h", spo_api::abi::HEADER),
            ("Makefile", include_str!("../templates/loss-in-c/Makefile.in")),
            ("README.md", include_str!("../templates/loss-in-c/README.md.in")),
            (".gitignore", "*.so\n*.dylib\n*.dll\n"),
        ],
    };
    for (path, template) in files {
        let path = folder.join(fill(path));
        std::fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(fail)?;
        std::fs::write(&path, fill(template)).map_err(fail)?;
    }
    Ok(folder)
}

/// `my-loss` as the name of a type: `MyLoss`.
fn camel(name: &str) -> String {
    name.split('-')
        .flat_map(|word| {
            word[..1.min(word.len())].to_uppercase().chars().chain(word.chars().skip(1)).collect::<Vec<_>>()
        })
        .collect()
}
