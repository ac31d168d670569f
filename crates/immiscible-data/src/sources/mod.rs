//! One file for each format.

pub(crate) mod cifar10;
pub(crate) mod digits;
pub(crate) mod folder;
pub(crate) mod idx;
