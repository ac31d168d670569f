//! Images a second that the loader brings to a training loop, for each second of a core: `cargo xtask bench loader`.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use image::{ImageFormat, Rgb, RgbImage};
use immiscible_data::{DataOptions, InMemory, Loader, LoaderOptions, Resize, Source, build};
use rayon::prelude::*;

#[derive(Parser)]
struct Arguments {
    /// Also this folder of images, with classes as sub-folders.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds that each line is measured for, of one core.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The report to write; docs/reports/loader-DATE.md if absent.
    #[arg(long)]
    out: Option<PathBuf>,
}

const BATCH: usize = 256;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global()?;
    // As in a process that trains: once the allocator has seen a large block, it keeps the memory of batches up to that size.
    drop(vec![0u8; 32 << 20]);
    let mut table = Vec::new();
    let mut line = |what: &str, speed: Speed, beside: &[Speed]| {
        let share = |beside: Option<&Speed>| {
            beside.map_or(String::new(), |beside| format!("{:.0} %", 100.0 * speed.cpu / beside.cpu))
        };
        let [decoding, reading] = [beside.first(), beside.get(1)].map(share);
        println!(
            "{what:60} {:>9.0} img/s of a core {:>9.0} img/s {decoding} {reading}",
            speed.cpu, speed.wall
        );
        table.push(format!("| {what} | {:.0} | {:.0} | {decoding} | {reading} |", speed.cpu, speed.wall));
    };

    let cifar = cifar()?;
    for flip in [false, true] {
        let what = format!("records of 3×32×32 in memory{}", if flip { ", flipped" } else { "" });
        line(&what, loader(Loader::new(in_memory(&cifar)?, options(flip))?, arguments.seconds)?, &[]);
    }
    let scratch = tempfile::tempdir()?;
    let npy = scratch.path().join("x.npy");
    fs::write(&npy, npy_file(&cifar))?;
    line("npy of 3×32×32 on disk", of("npy", &npy, None, arguments.seconds)?, &[]);

    for (name, format, side, count) in [
        ("png-32", ImageFormat::Png, 32, 2000),
        ("jpeg-32", ImageFormat::Jpeg, 32, 2000),
        ("jpeg-256", ImageFormat::Jpeg, 256, 600),
    ] {
        let folder = scratch.path().join(name);
        pictures(&folder, format, side, count)?;
        let what =
            format!("folder of {} images of 3×{side}×{side}", name.split('-').next().unwrap_or_default());
        let alone = [false, true].map(|read| decoding(&folder, read, arguments.seconds));
        let alone = alone.into_iter().collect::<Result<Vec<_>>>()?;
        line(&format!("{what}: decoding alone"), alone[0], &[]);
        line(&what, of("folder", &folder, None, arguments.seconds)?, &alone);
        let data = DataOptions { path: Some(folder.clone()), ..DataOptions::new("folder") };
        let loader = Loader::new(build(&data)?, options(false))?;
        let mut values = Vec::new();
        let to_values = |step| {
            let batch = loader.batch_at(step)?;
            batch.images.values_to(&mut values);
            Ok(batch.index.len())
        };
        line(&format!("{what}, to real numbers on the host"), speed(arguments.seconds, to_values)?, &alone);
        if side > 64 {
            for resize in [Resize::Lanczos3, Resize::Bicubic, Resize::Box] {
                let what = format!("{what}, resized to 64 ({resize:?})").to_lowercase();
                line(&what, of("folder", &folder, Some(resize), arguments.seconds)?, &alone);
            }
        }
    }
    if let Some(folder) = &arguments.folder {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let alone = [false, true].map(|read| decoding(folder, read, arguments.seconds));
        let alone = alone.into_iter().collect::<Result<Vec<_>>>()?;
        line(&format!("folder {name}: decoding alone"), alone[0], &[]);
        line(&format!("folder {name}"), of("folder", folder, None, arguments.seconds)?, &alone);
    }
    write(&arguments, &table)
}

/// Images for each second of a core, and of the clock.
#[derive(Clone, Copy)]
struct Speed {
    cpu: f64,
    wall: f64,
}

/// Calls `step`, which says how many images it went through, until enough time of a core is used.
fn speed(seconds: f64, mut step: impl FnMut(u64) -> Result<usize>) -> Result<Speed> {
    // Not measured: the first permutation, and pages that are touched for the first time.
    step(0)?;
    let (cpu, wall) = (cpu_time(), Instant::now());
    let mut images = 0;
    for number in 1.. {
        images += step(number)?;
        if (cpu_time() - cpu).as_secs_f64() >= seconds {
            break;
        }
    }
    let (cpu, wall) = ((cpu_time() - cpu).as_secs_f64(), wall.elapsed().as_secs_f64());
    Ok(Speed { cpu: images as f64 / cpu, wall: images as f64 / wall })
}

fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn options(flip: bool) -> LoaderOptions {
    LoaderOptions { batch_size: BATCH, seed: 0, flip }
}

fn loader(loader: Loader, seconds: f64) -> Result<Speed> {
    speed(seconds, |step| Ok(loader.batch_at(step)?.index.len()))
}

fn of(name: &str, path: &Path, resize: Option<Resize>, seconds: f64) -> Result<Speed> {
    let image_size = resize.map(|_| 64);
    let data = DataOptions { path: Some(path.into()), resize, image_size, ..DataOptions::new(name) };
    loader(Loader::new(build(&data)?, options(false))?, seconds)
}

/// What the decoder alone takes, for files that are in memory already; or with reading them.
fn decoding(folder: &Path, read: bool, seconds: f64) -> Result<Speed> {
    let mut paths = Vec::new();
    list(folder, &mut paths)?;
    paths.sort();
    let every = (paths.len() / 2000).max(1);
    let paths: Vec<PathBuf> = paths.into_iter().step_by(every).collect();
    let files: Vec<Vec<u8>> = paths.iter().map(fs::read).collect::<Result<_, _>>()?;
    speed(seconds, |step| {
        let first = step as usize * BATCH;
        let decode = |at: usize| {
            let at = at % files.len();
            let image = match read {
                true => image::load_from_memory(&fs::read(&paths[at])?),
                false => image::load_from_memory(&files[at]),
            };
            anyhow::Ok(image?.into_rgb8())
        };
        (first..first + BATCH).into_par_iter().try_for_each(|at| decode(at).map(drop))?;
        Ok(BATCH)
    })
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { list(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

/// 50,000 images of noise, the size of CIFAR-10.
fn cifar() -> Result<Vec<u8>> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    Ok((0..50_000 * 3072).map(|_| next()).collect())
}

fn in_memory(pixels: &[u8]) -> Result<Box<dyn Source>> {
    Ok(Box::new(InMemory::new("records", [3, 32, 32], pixels.to_vec())?))
}

fn npy_file(pixels: &[u8]) -> Vec<u8> {
    let header = "{'descr': '|u1', 'fortran_order': False, 'shape': (50000, 3, 32, 32), }\n";
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), pixels].concat()
}

/// Smooth waves with a little noise, about as hard to compress as photographs.
fn pictures(folder: &Path, format: ImageFormat, side: u32, count: u32) -> Result<()> {
    fs::create_dir_all(folder)?;
    (0..count).into_par_iter().try_for_each(|index| {
        let wave = |x: u32, y: u32, k: f32| {
            let (x, y) = (x as f32 / side as f32, y as f32 / side as f32);
            let noise = (x * 4093.0 + y * 8191.0 + k * 31.0 + index as f32).sin() * 12.0;
            (128.0 + 90.0 * (x * (3.0 + k) * 2.0 + y * (index % 7) as f32 + k).sin() + noise) as u8
        };
        let picture = RgbImage::from_fn(side, side, |x, y| Rgb([0.0, 1.0, 2.0].map(|k| wave(x, y, k))));
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format)?;
        let ending = format.extensions_str()[0];
        Ok(fs::write(folder.join(format!("{index:05}.{ending}")), bytes.into_inner())?)
    })
}

fn write(arguments: &Arguments, table: &[String]) -> Result<()> {
    let date = output("date", &["+%F"]);
    let out = arguments.out.clone().unwrap_or_else(|| format!("docs/reports/loader-{date}.md").into());
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let threads = match arguments.threads {
        1 => "one thread".into(),
        threads => format!("{threads} threads"),
    };
    let report = format!(
        "# How fast the loader is, {date}\n\n\
         {}, {threads}, commit {}, load {} when it ended. Batches of {BATCH} in the loader's order. Those of a folder are bytes, of which a \
         device makes real numbers in [−1, 1], or the host where a coupling compares them there; the others are real numbers. The first column counts the time of a core that the process used, which other processes do not change \
         much; the second the clock. A folder's last columns are its speed in percent of what decoding the same files takes, \
         without shuffling them: from memory, and read from the disk's cache.\n\n\
         ```console\n$ cargo xtask bench loader\n```\n\n\
         | data | img/s of a core | img/s | of decoding | of reading and decoding |\n|---|--:|--:|--:|--:|\n{}\n",
        cpu.map_or("an unknown processor", |(_, name)| name),
        output("git", &["describe", "--always", "--dirty", "--exclude", "*"]),
        load.split(' ').next().unwrap_or_default(),
        table.join("\n")
    );
    fs::write(&out, report).with_context(|| out.display().to_string())?;
    println!("{}", out.display());
    Ok(())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}
