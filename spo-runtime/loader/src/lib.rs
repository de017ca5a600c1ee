//! Parts that are loaded at run time: how they are found ([`search`]), loaded ([`library`]), watched while
//! they work ([`guard`]), put to the test ([`certify`]), and begun ([`scaffold`]).
//!
//! The border itself is [`spo_api::abi`].

pub mod certify;
mod elf;
pub mod guard;
pub mod library;
pub mod libtorch;
pub mod scaffold;
pub mod search;
