#![doc = include_str!("../README.md")]

mod key;
mod normal;
mod philox;
mod stream;

pub use key::Key;
pub use stream::Stream;
