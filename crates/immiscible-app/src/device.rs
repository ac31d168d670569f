//! From a device's name to the device; the only place that names a backend.

use anyhow::{Result, bail};
use burn::tensor::Device;

/// The devices that a config can name and the feature that compiles each in.
const DEVICES: &[&str] = &["cuda", "flex", "wgpu"];

/// The plain device of that name.
pub(crate) fn by_name(name: &str) -> Result<Device> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        name if DEVICES.contains(&name) => bail!(
            "device = {name:?} is not compiled in; build with --features {name}, or use cargo xtask train --device {name}"
        ),
        name => bail!("device = {name:?} is unknown; known: {}", DEVICES.join(", ")),
    }
}
