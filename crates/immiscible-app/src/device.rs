//! From a device's name to the device; the only place that names a backend.

use crate::Failure;
use crate::config::did_you_mean;
use crate::memory::size;
#[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
use crate::panics;
use anyhow::{Context, Result, anyhow, bail};
use burn::tensor::Device;
#[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
use burn::tensor::Tensor;

/// A kind of device that `device` in a config and `--device` can name.
struct Kind {
    /// The name, and that of the cargo feature which compiles it in.
    name: &'static str,
    /// What it runs on.
    runs_on: &'static str,
    /// What a machine without such a device lacks.
    missing: &'static str,
    /// The devices of this machine, if the kind is compiled in.
    offers: Option<fn() -> Vec<Offer>>,
}

/// Every kind of device by name.
const KINDS: &[Kind] = &[
    Kind {
        name: "cuda",
        runs_on: "NVIDIA GPUs",
        missing: "no NVIDIA GPU answers; install NVIDIA's driver, which brings libcuda",
        #[cfg(feature = "cuda-untuned")]
        offers: Some(gpus::cuda),
        #[cfg(not(feature = "cuda-untuned"))]
        offers: None,
    },
    Kind {
        name: "flex",
        runs_on: "the CPU",
        missing: "",
        #[cfg(feature = "flex")]
        offers: Some(|| vec![Offer::Cpu]),
        #[cfg(not(feature = "flex"))]
        offers: None,
    },
    Kind {
        name: "vulkan",
        runs_on: "GPUs through Vulkan",
        missing: "no Vulkan device answers; install the GPU's Vulkan driver, or mesa-vulkan-drivers for one in software",
        #[cfg(feature = "vulkan")]
        offers: Some(gpus::vulkan),
        #[cfg(not(feature = "vulkan"))]
        offers: None,
    },
    Kind {
        name: "wgpu",
        runs_on: "GPUs through Vulkan, Metal or DirectX 12",
        missing: "no GPU answers; install its driver of Vulkan, Metal or DirectX 12, or mesa-vulkan-drivers for one in software",
        #[cfg(feature = "wgpu-untuned")]
        offers: Some(gpus::wgpu),
        #[cfg(not(feature = "wgpu-untuned"))]
        offers: None,
    },
];

/// A device that this machine offers.
enum Offer {
    #[cfg(feature = "flex")]
    Cpu,
    #[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
    Gpu(burn::cubecl::Device),
}

impl Offer {
    /// The device itself, ready to work.
    ///
    /// # Errors
    /// What the driver says, or the compiler of kernels, in one line.
    fn open(&self) -> Result<Device, String> {
        // By value: a reference to what cannot exist, without any backend, would still want an arm.
        match *self {
            #[cfg(feature = "flex")]
            Self::Cpu => Ok(Device::flex()),
            #[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
            Self::Gpu(ref gpu) => panics::caught_silently(|| {
                gpu.client();
                let device = Device::new(gpu.clone());
                computes(&device).map(|()| device)
            })?,
        }
    }

    /// Its name, its memory, and how the kind is told apart from others.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn describe(&self) -> Result<String, String> {
        self.open()?;
        let (name, memory): (String, Option<u64>) = match *self {
            #[cfg(feature = "flex")]
            Self::Cpu => {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                let name = processor().map_or_else(String::new, |name| format!("{name}, "));
                (format!("{name}{threads} threads"), system_memory())
            }
            #[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
            Self::Gpu(ref gpu) => panics::caught_silently(|| {
                let client = gpu.client();
                let properties = client.properties();
                (properties.identity.name.clone(), properties.memory.max_memory())
            })?,
        };
        Ok(match memory {
            Some(bytes) => format!("{name}, {}", size(bytes as f64)),
            None => format!("{name}, memory unknown"),
        })
    }
}

/// Whether a kernel is compiled and runs there. Where the driver is, its compiler need not be.
#[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
fn computes(device: &Device) -> Result<(), String> {
    let sum = (Tensor::<1>::ones([1], device) + 1.0).try_into_scalar::<f32>();
    match sum.map_err(|reason| reason.to_string().split_whitespace().collect::<Vec<_>>().join(" "))? {
        2.0 => Ok(()),
        other => Err(format!("1 + 1 is {other} there")),
    }
}

#[cfg(any(feature = "cuda-untuned", feature = "wgpu-untuned"))]
mod gpus {
    //! What CubeCL finds.

    use super::Offer;
    use burn::cubecl::{Device, RuntimeId};

    /// Has CubeCL keep the kernels that it compiled, beside which of them were fastest, for the processes that come after.
    /// Everything else is as its files and variables say.
    #[cfg(feature = "tuned")]
    pub(super) fn keep_kernels() {
        use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
        use std::sync::Once;

        // Its files are read once.
        static SET: Once = Once::new();
        SET.call_once(|| {
            let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
            config.compilation.cache = true;
            // Too late only where a device is open, and with it the file that they are kept in.
            CubeClRuntimeConfig::try_set(config);
        });
    }

    fn of(runtime: RuntimeId) -> impl Iterator<Item = Device> {
        #[cfg(feature = "tuned")]
        keep_kernels();
        Device::enumerate_all().into_iter().filter(move |device| device.runtime() == runtime)
    }

    #[cfg(feature = "cuda-untuned")]
    pub(super) fn cuda() -> Vec<Offer> {
        of(RuntimeId::Cuda).map(Offer::Gpu).collect()
    }

    /// On the first of the APIs that has a GPU, and else on the first that has a device in software.
    #[cfg(feature = "wgpu-untuned")]
    pub(super) fn wgpu() -> Vec<Offer> {
        of(RuntimeId::Wgpu).map(Offer::Gpu).collect()
    }

    #[cfg(feature = "vulkan")]
    pub(super) fn vulkan() -> Vec<Offer> {
        use burn::cubecl::device::WgpuBackend;

        of(RuntimeId::Wgpu).filter_map(|device| device.on(WgpuBackend::Vulkan).ok()).map(Offer::Gpu).collect()
    }
}

/// Tells Burn to read optimisers' files on the CPU, whence a step takes them to its own device. Otherwise it reads them on
/// the first device that is compiled in, which this machine need not have.
///
/// To be called before there are threads.
#[cfg_attr(feature = "flex", expect(unsafe_code, reason = "Burn takes it from the environment alone"))]
pub(crate) fn read_records_on_the_cpu() {
    #[cfg(feature = "flex")]
    // SAFETY: no other thread reads the environment, as there is none yet.
    unsafe {
        std::env::set_var("BURN_DEVICE", "flex");
    }
}

/// The plain device of that name, `KIND` or `KIND:INDEX`, ready to work.
///
/// # Errors
/// If there is no such kind, if it is not compiled in, or if the machine has no such device: one line each.
pub(crate) fn by_name(name: &str) -> Result<Device> {
    offer(name)?.open().map_err(|reason| not_started(name, &reason))
}

/// What the device of that name calls itself, with its memory.
///
/// # Errors
/// As [`by_name`].
pub(crate) fn describe(name: &str) -> Result<String> {
    offer(name)?.describe().map_err(|reason| not_started(name, &reason))
}

fn not_started(name: &str, reason: &str) -> anyhow::Error {
    let remedy = if cfg!(feature = "cuda-cpp") && name.starts_with("cuda") {
        "update its driver, install CUDA with NVRTC and headers"
    } else {
        "update its driver"
    };
    anyhow!("device = {name:?} does not start: {reason}; {remedy}, or write \"flex\"")
}

/// What the machine offers by that name, not opened yet.
fn offer(name: &str) -> Result<Offer> {
    let (kind, index) = name.split_once(':').map_or((name, None), |(kind, index)| (kind, Some(index)));
    let Some(Kind { missing, offers, .. }) = KINDS.iter().find(|known| known.name == kind) else {
        let known = || KINDS.iter().map(|kind| kind.name);
        let names = known().collect::<Vec<_>>().join(", ");
        bail!("device = {name:?} is unknown; known: {names}{}", did_you_mean(kind, known()));
    };
    let index = match index {
        None => 0,
        Some(_) if kind == "flex" => bail!("device = {name:?}: there is one CPU; write \"flex\""),
        Some(index) => index.parse::<usize>().ok().with_context(|| {
            format!("device = {name:?}: write a whole number after the colon, such as {kind}:0")
        })?,
    };
    let offers = offers.with_context(|| {
        format!(
            "device = {name:?} is not compiled in; build with --features {kind}, or give cargo xtask --device {kind} as well"
        )
    })?;
    let mut offers = offers();
    if index >= offers.len() {
        bail!(match offers.len() {
            0 => format!("device = {name:?}: {missing}, or write \"flex\" for the CPU"),
            1 => format!("device = {name:?}: there is one device of this kind; write \"{kind}\""),
            n => format!(
                "device = {name:?}: there are {n} devices of this kind; write {kind}:0 to {kind}:{}",
                n - 1
            ),
        });
    }
    Ok(offers.swap_remove(index))
}

/// `immiscible devices`: what this binary has compiled in, and what this machine offers of it.
pub(crate) fn print() -> Result<(), Failure> {
    for Kind { name: kind, runs_on, missing, offers } in KINDS {
        let Some(offers) = offers else {
            println!("{kind:10} not compiled in: {runs_on}; build with --features {kind}");
            continue;
        };
        let offers = offers();
        if offers.is_empty() {
            println!("{kind:10} {missing}");
        }
        for (i, offer) in offers.iter().enumerate() {
            let name = if offers.len() == 1 { (*kind).into() } else { format!("{kind}:{i}") };
            match offer.describe() {
                Ok(what) => println!("{name:10} {what}"),
                Err(reason) => println!("{name:10} does not start: {reason}"),
            }
        }
    }
    Ok(())
}

/// Whether that name is the CPU's.
pub(crate) fn is_the_cpu(name: &str) -> bool {
    name == "flex"
}

/// Bytes of memory of the device of this name, where it is the CPU and the system tells.
pub(crate) fn cpu_memory(name: &str) -> Option<u64> {
    #[cfg(feature = "flex")]
    if is_the_cpu(name) {
        return system_memory();
    }
    let _ = name;
    None
}

/// The most bytes that this process held on the CPU, or those that are reserved on a GPU, where the system tells.
pub(crate) fn memory_held(device: &Device) -> Option<u64> {
    if let Some(usage) = device.memory_pool_usage() {
        return Some(usage.bytes_reserved);
    }
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(1024 * kibibytes(&status, "VmHWM")?)
}

/// Bytes of memory that the system has, where it tells.
#[cfg(feature = "flex")]
fn system_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(1024 * kibibytes(&text, "MemTotal")?)
}

/// What the processor calls itself, where the system tells.
#[cfg(feature = "flex")]
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    field(&text, "model name").map(str::to_owned)
}

/// The number of `name: number kB` in a file of such lines.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse().ok()
}

/// The first value of a name in a file of `name: value` lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(name: &str) -> String {
        let message = by_name(name).expect_err(name).to_string();
        assert!(message.contains(&format!("device = {name:?}")), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    }

    #[test]
    fn kinds_are_sorted() {
        assert!(KINDS.is_sorted_by_key(|kind| kind.name));
    }

    #[test]
    fn a_name_that_is_none_gets_the_known_ones() {
        let message = refused("wgpuu");
        assert!(message.contains("known: cuda, flex, vulkan, wgpu; did you mean `wgpu`?"), "{message}");
        assert!(refused("").contains("known: cuda"));
    }

    #[test]
    fn an_index_must_be_one() {
        for name in ["cuda:", "wgpu:x", "vulkan:-1", "cuda:0:1"] {
            let message = refused(name);
            assert!(message.contains("whole number"), "{message}");
        }
        assert!(refused("flex:0").contains("one CPU"));
    }

    #[test]
    fn the_cpu_is_always_there() {
        by_name("flex").expect("the CPU");
        let line = Offer::Cpu.describe().expect("the CPU");
        assert!(line.contains("threads"), "{line}");
        if cfg!(target_os = "linux") {
            assert!(line.ends_with('B') && !line.contains("unknown"), "{line}");
        }
    }

    #[test]
    fn what_is_not_compiled_in_names_its_feature() {
        for kind in KINDS.iter().filter(|kind| kind.offers.is_none()) {
            let message = refused(&format!("{}:7", kind.name));
            assert!(message.contains("not compiled in"), "{message}");
            assert!(message.contains(&format!("--features {}", kind.name)), "{message}");
        }
    }

    #[test]
    #[cfg(feature = "tuned")]
    fn kernels_are_kept() {
        use burn::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

        gpus::keep_kernels();
        assert!(CubeClRuntimeConfig::get().compilation.cache);
    }

    #[test]
    fn what_the_machine_has_not_names_the_driver_or_the_range() {
        for kind in KINDS.iter().filter(|kind| kind.name != "flex") {
            let Some(offers) = kind.offers else { continue };
            let message = refused(&format!("{}:4096", kind.name));
            let words = if offers().is_empty() { "install" } else { "of this kind" };
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn fields_of_a_file_are_found() {
        let text = "MemTotal:       16384 kB\nmodel name\t: A: B\n";
        assert_eq!(field(text, "MemTotal"), Some("16384 kB"));
        assert_eq!(field(text, "model name"), Some("A: B"));
        assert_eq!(field(text, "MemFree"), None);
        assert_eq!(kibibytes(text, "MemTotal"), Some(16384));
    }
}
