//! What `immiscible data` says and writes, and runs on data that are damaged, or latents already.

use burn::tensor::Device;
use image::{Rgb, RgbImage};
use immiscible_data::{BadSample, DataOptions, build, npy};
use immiscible_models::{AutoencoderKLConfig, ModelConfig, Pretrained};
use std::fs;
use std::path::Path;

mod common;

use common::{immiscible, refused, succeed, text};

/// Two classes of `each` images of 8×8.
fn images(folder: &Path, each: usize) {
    for (class, red) in [("cat", 0), ("dog", 200)] {
        fs::create_dir_all(folder.join(class)).unwrap();
        for index in 0..each {
            let image =
                RgbImage::from_fn(8, 8, |x, y| Rgb([red + (x + y) as u8, (index * 3) as u8, (x * 30) as u8]));
            image.save(folder.join(class).join(format!("{index:03}.png"))).unwrap();
        }
    }
}

#[test]
fn check_counts_what_is_there_and_names_what_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    images(&folder.join("set"), 10);
    let said = succeed(folder, &["data", "check", "set"]);
    for line in
        ["samples   20 of 3×8×8", "classes   2", "      10 cat", "channel 0 mean -0.1", "damaged   none"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }

    RgbImage::new(9, 4).save(folder.join("set/dog/odd.png")).unwrap();
    let said = succeed(folder, &["data", "check", "set"]);
    assert!(said.contains("size      9×4 pixels: 1 more; set image_size"), "{said}");
    let said = succeed(folder, &["data", "check", "set", "--set", "image_size=4"]);
    assert!(said.contains("samples   21 of 3×4×4"), "{said}");

    fs::write(folder.join("set/cat/003.png"), b"no image").unwrap();
    let whole = fs::read(folder.join("set/dog/004.png")).unwrap();
    fs::write(folder.join("set/dog/004.png"), &whole[..whole.len() * 2 / 3]).unwrap();
    let output = immiscible(folder, &["data", "check", "set", "--set", "image_size=4"]);
    let (said, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("set/cat/003.png") && said.contains("set/dog/004.png"), "{said}");
    assert!(said.contains("       9 cat") && said.contains("      10 dog"), "{said}");
    assert!(error.starts_with("error: 2 of 21 samples of set are damaged"), "{error}");

    let said = refused(folder, &["data", "check", "set", "--set", "image_sice=4"]);
    assert!(said.contains("did you mean `image_size`?"), "{said}");
    assert!(refused(folder, &["data", "check", "missing"]).contains("cannot read missing"));
    let said = refused(folder, &["data", "check", "set", "--kind", "foldr"]);
    assert!(said.contains("no data set is called `foldr`"), "{said}");
}

const NETWORK: &str = r#"model={kind="unet", block_out_channels=[8,16], norm_num_groups=4, layers_per_block=1, attention_head_dim=4, down_block_types=["DownBlock2D","DownBlock2D"], up_block_types=["UpBlock2D","UpBlock2D"]}"#;

/// A few steps of a small network.
fn train<'a>(run: &'a str, steps: &'a str, data: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let arguments = [
        "train",
        "--preset",
        "digits",
        "--run",
        run,
        "--set",
        NETWORK,
        "--set",
        data,
        "--set",
        steps,
        "--set",
        "train.batch_size=8",
        "--set",
        "sample.steps=2",
        "--set",
        "sample.n=4",
        "--set",
        "train.log_every=1",
    ];
    arguments.iter().chain(more).copied().collect()
}

fn losses(folder: &Path, run: &str) -> Vec<String> {
    let text = fs::read_to_string(folder.join("runs").join(run).join("metrics.jsonl")).unwrap();
    let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["loss"].to_string();
    text.lines().map(loss).collect()
}

#[test]
fn a_run_passes_over_a_few_damaged_images_and_goes_on_as_it_would_have() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    images(&folder.join("set"), 20);
    let damaged = folder.join("set/dog/007.png");
    let whole = fs::read(&damaged).unwrap();
    fs::write(&damaged, &whole[..whole.len() * 2 / 3]).unwrap();

    let strict = r#"data={name="folder", path="set", crop="random", image_size=4}"#;
    let output = immiscible(folder, &train("strict", "train.steps=5", strict, &[]));
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("set/dog/007.png"), "{}", text(&output.stderr));

    let data =
        r#"data={name="folder", path="set", crop="random", image_size=8, max_bad=0.03, resize="bicubic"}"#;
    let said = succeed(folder, &train("whole", "train.steps=12", data, &[]));
    assert!(
        said.contains("damaged   1 samples, in whose place others were read: runs/whole/bad_files.jsonl"),
        "{said}"
    );
    for steps in ["train.steps=5", "train.steps=12"] {
        succeed(folder, &train("parts", steps, data, &[]));
    }
    assert_eq!(losses(folder, "whole"), losses(folder, "parts"));
    let list = fs::read_to_string(folder.join("runs/parts/bad_files.jsonl")).unwrap();
    let bad: Vec<BadSample> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(bad.len(), 1, "{list}");
    assert_eq!((bad[0].index, bad[0].path.as_deref()), (27, Some(Path::new("set/dog/007.png"))));

    // The list is not worth a run.
    fs::create_dir_all(folder.join("runs/unlisted/bad_files.jsonl")).unwrap();
    let output = immiscible(folder, &train("unlisted", "train.steps=5", data, &[]));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("bad_files.jsonl")).collect();
    assert!(matches!(warnings[..], [line] if line.starts_with("warning: ")), "{said}");
}

/// The folder of a tiny autoencoder of random weights: 3×8×8 images, 4×4×4 latents.
fn autoencoder(folder: &Path, scaling_factor: f64) {
    let config = AutoencoderKLConfig { scaling_factor, ..AutoencoderKLConfig::tiny() };
    let network = config.init(&Device::flex()).unwrap();
    Pretrained { config, network }.save_pretrained(folder).unwrap();
}

#[test]
fn latents_are_encoded_once_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    images(&folder.join("set"), 35);
    autoencoder(&folder.join("vae"), 0.5);
    let encode = |out: &str, more: &[&str]| {
        let arguments = ["data", "encode", "folder:set", "--vae", "vae", "--out", out];
        succeed(folder, &[&arguments[..], more].concat())
    };
    let said = encode("mean.safetensors", &[]);
    assert!(said.contains("70 latents of 4×4×4: mean.safetensors"), "{said}");
    let bytes = fs::read(folder.join("mean.safetensors")).unwrap();
    // What a process that was killed left behind: two whole chunks and some of the third.
    let row = 4 * 4 * 4 * 4;
    fs::write(folder.join("again.safetensors.partial"), &bytes[..bytes.len() - 6 * row + 100]).unwrap();
    encode("again.safetensors", &[]);
    assert!(fs::read(folder.join("again.safetensors")).unwrap() == bytes);
    assert!(!folder.join("again.safetensors.partial").exists());
    // What another command left behind is not gone on with.
    fs::write(folder.join("drawn.safetensors.partial"), &bytes[..bytes.len() - row]).unwrap();
    encode("drawn.safetensors", &["--sample", "--seed", "3"]);
    assert!(fs::read(folder.join("drawn.safetensors")).unwrap() != bytes);
    assert!(
        refused(folder, &["data", "encode", "folder:set", "--vae", "set", "--out", "x.safetensors"])
            .contains("--vae")
    );
    let said =
        refused(folder, &["data", "encode", "folder:set", "--vae", "vae", "--out", "mean.safetensors"]);
    assert!(said.contains("it is there already"), "{said}");

    let options = DataOptions { path: Some(folder.join("mean.safetensors")), ..DataOptions::new("latents") };
    let source = build(&options).unwrap();
    assert_eq!((source.len(), source.shape(), source.label(69)), (70, [4, 4, 4], Some(1)));
    assert_eq!(source.classes().unwrap(), ["cat", "dog"]);
    let info = source.latents().unwrap();
    assert_eq!((info.scaling_factor, info.shift_factor), (Some(0.5), Some(0.0)));
    assert_eq!(info.vae_sha256.as_ref().map(String::len), Some(64));

    let data = r#"data={name="latents", path="mean.safetensors"}"#;
    let said = refused(folder, &train("l", "train.steps=6", data, &[]));
    assert!(said.contains("latent.vae is unset"), "{said}");
    let vae = ["--set", "latent.vae=vae", "--set", "sample.clip=false"];
    let flip = r#"data={name="latents", path="mean.safetensors", flip=true}"#;
    let said = refused(folder, &train("l", "train.steps=6", flip, &vae));
    assert!(said.contains("mirrored latents are no latents"), "{said}");
    autoencoder(&folder.join("other"), 0.25);
    let other = ["--set", "latent.vae=other", "--set", "sample.clip=false"];
    let said = refused(folder, &train("l", "train.steps=6", data, &other));
    assert!(said.contains("its scaling_factor is 0.25, and the latents were made with 0.5"), "{said}");
    autoencoder(&folder.join("twin"), 0.5);
    let twin = ["--set", "latent.vae=twin", "--set", "sample.clip=false"];
    let said = refused(folder, &train("l", "train.steps=6", data, &twin));
    assert!(said.contains("its weights have the SHA-256"), "{said}");

    // The latents are on the host, so that a window of coming batches can be paired.
    let window = ["--set", "coupling={kind=\"window\", window=16}"];
    let said = succeed(folder, &train("l", "train.steps=6", data, &[&vae[..], &window].concat()));
    assert!(said.contains("what the autoencoder makes of the latents"), "{said}");
    succeed(folder, &["sample", "--checkpoint", "runs/l", "--n", "2", "--steps", "2", "--out", "s.npy"]);
    assert_eq!(npy::read::<f32>(&folder.join("s.npy")).unwrap().shape, [2, 3, 8, 8]);

    // The mean is what a run on the images would have encoded in each step.
    let live = r#"data={name="folder", path="set"}"#;
    let posterior = ["--set", "latent.posterior=mean", "--set", "coupling={kind=\"assignment\"}"];
    succeed(folder, &train("live", "train.steps=6", live, &[&vae[..], &posterior].concat()));
    let cached = ["--set", "coupling={kind=\"assignment\"}"];
    succeed(folder, &train("cached", "train.steps=6", data, &[&vae[..], &cached].concat()));
    let numbers =
        |run| losses(folder, run).iter().map(|loss| loss.parse::<f64>().unwrap()).collect::<Vec<_>>();
    for (live, cached) in numbers("live").into_iter().zip(numbers("cached")) {
        assert!((live - cached).abs() < 1e-4 * live, "{live} {cached}");
    }
}
