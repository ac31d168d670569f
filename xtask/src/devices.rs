//! The device suite on one kind of device, here or packed for another machine.

use crate::{Outcome, backend_feature, cargo, layers, python};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Builds the device suite and runs it on a device of this machine. `features` are arguments of cargo that compile the device
/// in.
pub(crate) fn suite(device: &str, features: &[&str]) -> Outcome {
    let mut suite = cargo();
    suite.current_dir(layers::workspace_root());
    suite.args(["run", "--package", "immiscible-app", "--bin", "immiscible-device-suite"]).args(features);
    // Its networks are so small that to look longer for the fastest kernels takes more time than they do.
    if std::env::var_os(AUTOTUNE_LEVEL).is_none() {
        suite.env(AUTOTUNE_LEVEL, "minimal");
    }
    crate::run(suite.args(["--", "--device", device]))
}

/// [`suite`] with the feature of the device.
pub(crate) fn suite_alone(device: &str) -> Outcome {
    match backend_feature(&["--device".to_owned(), device.to_owned()]) {
        Some(feature) => suite(device, &["--features", &format!("immiscible-app/{feature}")]),
        None => suite(device, &[]),
    }
}

const AUTOTUNE_LEVEL: &str = "CUBECL_AUTOTUNE_LEVEL";

/// Where a driver of Vulkan says that it is there.
const DRIVERS: [&str; 2] = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
/// Debian's package of a driver in software, which brings the loader with it.
const SOFTWARE_DRIVER: &str = "mesa-vulkan-drivers";

/// Installs a driver of Vulkan in software, if there is none of any kind.
///
/// # Errors
/// One line: why there is none.
pub(crate) fn install_software_vulkan() -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Err("it is run on Linux".into());
    }
    let there =
        || DRIVERS.iter().any(|folder| Path::new(folder).read_dir().is_ok_and(|mut it| it.next().is_some()));
    if there() {
        return Ok(());
    }
    // Only root installs; others may be root by sudo where it asks for no password.
    let root = python::quietly(Command::new("sh").args(["-c", "test $(id -u) -eq 0"])).is_ok();
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            command.args(["--non-interactive", "apt-get"]);
        }
        python::quietly(command.args(arguments))
    };
    apt_get(&["update", "--quiet"])
        .and_then(|()| apt_get(&["install", "--quiet", "--yes", "--no-install-recommends", SOFTWARE_DRIVER]))
        .map_err(|reason| format!("install {SOFTWARE_DRIVER} by hand: {reason}"))?;
    if there() { Ok(()) } else { Err(format!("{SOFTWARE_DRIVER} brought no driver")) }
}

/// What runs the packed command; the archive follows.
const SCRIPT: &str = include_str!("device-test.sh");
const PACKED: &str = "immiscible-device-test.sh";
/// So much can be carried to any machine.
const MOST_BYTES: u64 = 40 << 20;

/// `cargo xtask device-test --device D --out DIR [--nvrtc]`: packs the command, its suite and what that compares with into one file,
/// and runs it where this machine has such a device. With `--nvrtc` NVIDIA's compiler makes the kernels on `cuda`.
pub(crate) fn test(arguments: &[String]) -> Outcome {
    let [flag, device, out_flag, out, rest @ ..] = arguments else { return Err(usage()) };
    if [&**flag, out_flag] != ["--device", "--out"] {
        return Err(usage());
    }
    let nvrtc = match rest {
        [] => false,
        [option] if option == "--nvrtc" => true,
        _ => return Err(usage()),
    };
    let feature = backend_feature(&arguments[..2]);
    let index = device.split_once(':').map(|(_, index)| index);
    let known = match feature {
        Some(_) => index.is_none_or(|index| index.parse::<usize>().is_ok()),
        None => device == "flex",
    };
    if !known || nvrtc && feature != Some("cuda") {
        return Err(usage());
    }
    let out = PathBuf::from(out);
    let mut build = cargo();
    build.current_dir(layers::workspace_root());
    build.args(["build", "--release", "--package", "immiscible-app", "--bin", "immiscible"]);
    // There is no git where it is carried to.
    if let Some(commit) = layers::commit() {
        build.env("IMMISCIBLE_COMMIT", commit);
    }
    if let Some(feature) = feature {
        build.args([
            "--features",
            match feature {
                // A machine for CUDA has NVIDIA's driver of Vulkan, too.
                "cuda" if !nvrtc => "cuda,vulkan",
                "cuda" => "cuda-cpp,vulkan",
                feature => feature,
            },
        ]);
    }
    eprintln!("building immiscible in release (the first time takes many minutes)");
    crate::run(&mut build)?;
    let binary = layers::target_folder().join("release/immiscible");
    let golden = layers::workspace_root().join("crates/immiscible-models/tests/golden");
    let packed = pack(&binary, &golden, &out).map_err(|error| python::failed(&out, &error))?;
    match crate::run(Command::new("sh").arg(&packed).arg(device).arg(&out)) {
        Err(2) => {
            let packed = packed.display();
            println!("{packed} is for a machine that has such a device: sh {PACKED} {device} OUT");
            Ok(())
        }
        outcome => outcome,
    }
}

fn usage() -> u8 {
    eprintln!(
        "xtask: write cargo xtask device-test --device cuda --out DIR, or flex, vulkan, wgpu, or cuda:1 and so on; \
         --nvrtc after it has NVIDIA's compiler make the kernels of cuda"
    );
    2
}

/// Packs a command without its symbols, and the golden files, into a script that unpacks and runs them.
fn pack(binary: &Path, golden: &Path, out: &Path) -> io::Result<PathBuf> {
    let stage = out.join("packing");
    python::emptied(&stage)?;
    fs::copy(binary, stage.join("immiscible"))?;
    succeed(Command::new("strip").arg(stage.join("immiscible")))?;
    let mut tar = Command::new("tar");
    tar.args(["-cJ", "-C"]).arg(&stage).arg("immiscible");
    // Jumps of x86 code as the addresses they go to, which occur again. With all threads: one takes ten minutes for the devices
    // of CUDA and Vulkan.
    tar.env("XZ_OPT", "-T0 --x86 --lzma2=preset=6");
    tar.arg("-C").arg(golden.parent().unwrap_or(golden)).arg(golden.file_name().unwrap_or_default());
    let archive = succeed(&mut tar)?;
    fs::remove_dir_all(&stage)?;

    let script = SCRIPT.replace("@PACKED@", &(SCRIPT.lines().count() + 1).to_string());
    let whole = [script.into_bytes(), archive].concat();
    if whole.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("{} bytes packed, more than {MOST_BYTES}", whole.len())));
    }
    let packed = out.join(PACKED);
    fs::write(&packed, &whole)?;
    println!("{}: {:.1} MiB", packed.display(), whole.len() as f64 / f64::from(1 << 20));
    Ok(packed)
}

/// What a command prints.
fn succeed(command: &mut Command) -> io::Result<Vec<u8>> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    if output.status.success() { Ok(output.stdout) } else { Err(io::Error::other(format!("{name} failed"))) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Packs `echo` as the command, which tells how it was called.
    #[test]
    fn what_is_packed_is_unpacked_and_run() {
        let folder = std::env::temp_dir().join(format!("immiscible-device-test-{}", std::process::id()));
        let (golden, out, found) = (folder.join("golden"), folder.join("out"), folder.join("found"));
        fs::create_dir_all(&golden).unwrap();
        fs::create_dir_all(&out).unwrap();
        fs::write(golden.join("io"), "numbers").unwrap();
        let packed = pack(Path::new("/bin/echo"), &golden, &out).unwrap();
        let run = |arguments: &[&str]| Command::new("sh").arg(&packed).args(arguments).output().unwrap();

        let without = run(&["cuda"]);
        assert_eq!(without.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&without.stderr).contains("DEVICE OUT"));

        let ran = run(&["cuda:1", found.to_str().unwrap()]);
        let (said, wrong) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() && wrong.is_empty(), "{said}{wrong}");
        assert_eq!(fs::read_to_string(found.join("devices.txt")).unwrap(), "devices\n");
        let suite = fs::read_to_string(found.join("suite.txt")).unwrap();
        assert!(suite.starts_with("device-suite --device cuda:1 --golden "), "{suite}");
        for line in [
            "bench-step --device cuda:1 --out ",
            "--precisions f32,bf16\n",
            "--batches 128,1024,8192 --micro-batch 128 ",
            "train --preset digits --device cuda:1 --coupling knn ",
        ] {
            assert!(said.contains(line), "{said}");
        }

        for (part, says, not) in [
            (&["steps", "--networks", "DiT-S/2"][..], "--networks DiT-S/2", "train "),
            (&["runs"], "train ", "bench-step "),
            (&["suite"], "device-suite ", "train "),
        ] {
            let ran = run(&[&["cuda", found.to_str().unwrap()], part].concat());
            let said = String::from_utf8_lossy(&ran.stdout);
            assert!(ran.status.success() && said.contains(says) && !said.contains(not), "{part:?}: {said}");
        }
        for wrong in [&["all"][..], &["step"], &["runs", "suite"]] {
            let refused = run(&[&["cuda", found.to_str().unwrap()], wrong].concat());
            assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
        }
        // Commands that end with a status: what came of opening the device, and of everything else.
        for (says, ends, status) in [
            ("device = \"cuda\" is not compiled in", 2, 2),
            ("device = \"cuda\" does not start: no compiler", 2, 1),
            ("killed", 4, 1),
        ] {
            let program = folder.join("fails");
            fs::write(&program, format!("#!/bin/sh\necho '{says}' >&2\nexit {ends}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let script = SCRIPT.replace(
                "tail -n +@PACKED@ \"$0\" | tar -xJ -C \"$folder\"",
                &format!("cp {} \"$folder/immiscible\"", program.display()),
            );
            fs::write(folder.join("script.sh"), script).unwrap();
            let ran = Command::new("sh")
                .arg(folder.join("script.sh"))
                .args(["cuda", found.to_str().unwrap()])
                .output()
                .unwrap();
            assert_eq!(ran.status.code(), Some(status), "{says}: {ran:?}");
            assert!(String::from_utf8_lossy(&ran.stderr).contains(says), "{ran:?}");
        }
        // Half of an archive.
        let whole = fs::read(&packed).unwrap();
        fs::write(&packed, &whole[..whole.len() - 100]).unwrap();
        assert_eq!(run(&["cuda", found.to_str().unwrap()]).status.code(), Some(1));
        fs::remove_dir_all(&folder).unwrap();
    }
}
