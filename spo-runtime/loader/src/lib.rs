//! Plugins: parts that are loaded at run time. The modules find them ([`search`]), load them ([`library`]),
//! report crashes and hangs ([`guard`]), test them ([`certify`]), and create new ones ([`scaffold`]).
//!
//! The plugin ABI itself is [`spo_api::abi`].

pub mod certify;
mod elf;
pub mod guard;
pub mod library;
pub mod libtorch;
pub mod scaffold;
pub mod search;
