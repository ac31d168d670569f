//! The data sets as a user meets them: files in a folder, options, batches and messages.

use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::{Compression, write::GzEncoder};
use image::{ImageFormat, Rgb, RgbImage};
use immiscible_data::{
    Crop, DataError, DataOptions, Images, LabelKind, Layout, Loader, LoaderOptions, Resize, SOURCES, Source,
    Split, Tolerant, build, npy, read_all,
};
use ndarray::{Array3, s};
use proptest::prelude::*;
use tempfile::TempDir;

fn options(name: &str, path: &Path) -> DataOptions {
    DataOptions { path: Some(path.to_owned()), ..DataOptions::new(name) }
}

fn message(options: &DataOptions) -> String {
    build(options).err().expect("this must be refused").to_string()
}

fn sample(source: &dyn Source, index: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; source.shape().iter().product()];
    source.read(index, &mut out).unwrap();
    out
}

fn labels(source: &dyn Source) -> Vec<Option<u32>> {
    (0..source.len()).map(|index| source.label(index)).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn idx(dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dims.len() as u8];
    bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// Two training images of 2×3 pixels and one test image, some of the files compressed.
fn write_idx(folder: &Path) {
    let pixels = [0, 51, 102, 153, 204, 255, 255, 204, 153, 102, 51, 0];
    fs::write(folder.join("train-images-idx3-ubyte.gz"), gzip(&idx(&[2, 2, 3], &pixels))).unwrap();
    fs::write(folder.join("train-labels-idx1-ubyte"), idx(&[2], &[3, 1])).unwrap();
    fs::write(folder.join("t10k-images-idx3-ubyte"), idx(&[1, 2, 3], &[9; 6])).unwrap();
    fs::write(folder.join("t10k-labels-idx1-ubyte"), idx(&[1], &[7])).unwrap();
}

/// A record whose three planes are filled with `red`, `red` + 1 and `red` + 2.
fn cifar_record(label: u8, red: u8) -> Vec<u8> {
    let mut bytes = vec![label];
    (0..3).for_each(|plane| bytes.extend([red + plane; 1024]));
    bytes
}

fn write_image(path: &Path, width: u32, height: u32, colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(width, height, Rgb(colour)).save(path).unwrap();
}

/// A golden file; `arrays.py` beside it makes it.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn in_file(folder: TempDir, name: &str, file: &str, bytes: &[u8]) -> (Option<TempDir>, DataOptions) {
    let path = folder.path().join(file);
    fs::write(&path, bytes).unwrap();
    (Some(folder), options(name, &path))
}

fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), values].concat()
}

/// Two latents of 4×2×2 and their labels, in the layout of safetensors; all values are `value`.
fn latents(value: f32) -> Vec<u8> {
    let header = r#"{"__metadata__": {"scaling_factor": "0.5", "vae_sha256": "ab"},
        "latents": {"dtype": "F32", "shape": [2, 4, 2, 2], "data_offsets": [0, 128]},
        "labels": {"dtype": "I64", "shape": [2], "data_offsets": [128, 144]}}"#;
    let labels = [1i64, 0].map(i64::to_le_bytes).concat();
    let len = header.len().to_le_bytes();
    [&len, header.as_bytes(), &[value.to_le_bytes(); 32].concat(), &labels].concat()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let image = RgbImage::from_fn(width, height, |x, y| Rgb([(40 * x) as u8, (40 * y) as u8, 255]));
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A tiny data set for each name of the registry.
fn fixture(name: &str) -> (Option<TempDir>, DataOptions) {
    let folder = tempfile::tempdir().unwrap();
    match name {
        "digits" => return (None, DataOptions::new(name)),
        "cifar10" => fs::write(folder.path().join("data_batch_1.bin"), cifar_record(4, 10)).unwrap(),
        "cifar100" => {
            fs::write(folder.path().join("train.bin"), [&[2], &cifar_record(42, 10)[..]].concat()).unwrap()
        }
        "records" => {
            fs::write(folder.path().join("some.bin.gz"), gzip(&cifar_record(3, 10))).unwrap();
        }
        "latents" => return in_file(folder, name, "l.safetensors", &latents(1.0)),
        "npy" => {
            fs::write(folder.path().join("y.npy"), npy("|u1", "(2,)", &[1, 0])).unwrap();
            let label_file = Some(folder.path().join("y.npy"));
            let (folder, options) = in_file(folder, name, "x.npy", &npy("|u1", "(2, 2, 3)", &[7; 12]));
            return (folder, DataOptions { label_file, ..options });
        }
        "npz" => return (None, options(name, &golden("stored.npz"))),
        "parquet" => return (None, options(name, &golden("images.parquet"))),
        "tar" => {
            let members = [("a/1.png", png(3, 2)), ("a/1.cls", b"1\n".to_vec()), ("a/2.cls", b"0".to_vec())];
            let members = [&members[..], &[("a/2.seg.txt", vec![0]), ("a/2.PNG", png(3, 2))]].concat();
            fs::write(folder.path().join("shard-0.tar"), tar(&members)).unwrap();
        }
        "folder" => write_image(&folder.path().join("cat/1.png"), 3, 2, [1, 2, 3]),
        "fashion-mnist" | "idx" | "mnist" => write_idx(folder.path()),
        _ => panic!("write a fixture for the data set `{name}`"),
    }
    let options = options(name, folder.path());
    (Some(folder), options)
}

#[test]
fn names_are_sorted() {
    assert!(SOURCES.is_sorted_by(|(a, _), (b, _)| a < b));
}

#[test]
fn every_source_keeps_the_contract() {
    for (name, _) in SOURCES {
        let (_folder, options) = fixture(name);
        let source = build(&options).unwrap();
        let size = source.shape().iter().product();
        assert_eq!(source.name(), *name);
        assert!(!source.is_empty() && size > 0, "{name}");
        let mut out = vec![f32::NAN; size];
        for index in 0..source.len() {
            source.read(index, &mut out).unwrap();
            assert!(out.iter().all(|v| (-1.0..=1.0).contains(v)), "{name}");
            let mut again = vec![f32::NAN; size];
            source.read_crop(index, [0.9, 0.1], &mut again).unwrap();
            assert_eq!(out, again, "{name}: there is no room for another crop");
            let classes = source.classes().expect("every fixture has labels").len();
            assert!((source.label(index).unwrap() as usize) < classes, "{name}");
        }
        assert_eq!(source.label(source.len()), None, "{name}");
        assert!(matches!(source.read(source.len(), &mut out), Err(DataError::Index { .. })), "{name}");
        assert!(matches!(source.read(0, &mut out[1..]), Err(DataError::OutLength { .. })), "{name}");
    }
}

#[test]
fn every_source_on_disk_asks_for_its_path_and_names_a_missing_one() {
    for (name, _) in SOURCES.iter().filter(|(name, _)| *name != "digits") {
        let text = message(&DataOptions::new(*name));
        assert!(text.starts_with(&format!("data set `{name}` needs the option `path`: ")), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let text = message(&options(name, &missing));
        assert!(text.starts_with(&format!("cannot read {}: ", missing.display())), "{name}: {text}");
        let text = message(&options(name, folder.path()));
        let start = match *name {
            "latents" | "npy" | "npz" => format!("cannot read {}: it is a folder", folder.path().display()),
            _ => format!("{} holds no ", folder.path().display()),
        };
        assert!(text.starts_with(&start), "{name}: {text}");
    }
}

#[test]
fn options_are_refused_where_they_mean_nothing() {
    assert_eq!(
        message(&DataOptions::new("mnits")),
        format!(
            "no data set is called `mnits`; choose one of {}",
            SOURCES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
        )
    );
    for name in ["digits", "idx", "cifar10"] {
        let (_folder, options) = fixture(name);
        assert_eq!(
            message(&DataOptions { image_size: Some(32), ..options }),
            format!("data set `{name}` does not use the option `image_size` here; remove it")
        );
    }
    let (_folder, options) = fixture("folder");
    assert_eq!(
        message(&DataOptions { image_size: Some(0), ..options }),
        "image_size = 0 is out of range; choose 1 to 16384"
    );
}

#[test]
fn options_read_from_text_refuse_unknown_keys() {
    let read = |text| serde_json::from_str::<DataOptions>(text);
    let expected = DataOptions { split: Some(Split::Test), ..options("idx", Path::new("d")) };
    assert_eq!(read(r#"{"name": "idx", "path": "d", "split": "test"}"#).unwrap(), expected);
    assert_eq!(serde_json::to_string(&expected).unwrap(), r#"{"name":"idx","path":"d","split":"test"}"#);
    assert!(read(r#"{"name": "idx", "folder": "d"}"#).unwrap_err().to_string().contains("unknown field"));
    assert!(read(r#"{"name": "idx", "split": "dev"}"#).is_err());
}

#[test]
fn idx_reads_the_pair_of_its_split() {
    let (_folder, options) = fixture("idx");
    let train = build(&options).unwrap();
    assert_eq!((train.len(), train.shape()), (2, [1, 2, 3]));
    assert_eq!(labels(train.as_ref()), [Some(3), Some(1)]);
    assert_eq!(train.classes().unwrap(), ["0", "1", "2", "3"]);
    let expected = [255, 204, 153, 102, 51, 0].map(|v| v as f32 / 127.5 - 1.0);
    assert_eq!(sample(train.as_ref(), 1), expected);
    let test = build(&DataOptions { split: Some(Split::Test), ..options.clone() }).unwrap();
    assert_eq!(labels(test.as_ref()), [Some(7)]);

    let fashion = build(&DataOptions { name: "fashion-mnist".into(), ..options.clone() }).unwrap();
    assert_eq!(fashion.classes().unwrap()[9], "Ankle boot");
    assert_eq!(build(&DataOptions { name: "mnist".into(), ..options }).unwrap().classes().unwrap().len(), 10);
}

#[test]
fn idx_faults_name_the_file() {
    let (folder, options) = fixture("mnist");
    let folder = folder.unwrap();
    let labels = folder.path().join("train-labels-idx1-ubyte");

    fs::write(&labels, idx(&[3], &[0, 1, 2])).unwrap();
    let text = message(&options);
    assert!(text.contains("train-images-idx3-ubyte.gz holds 2 images but "), "{text}");
    assert!(text.contains("train-labels-idx1-ubyte holds 3 labels"), "{text}");

    fs::write(&labels, idx(&[2], &[0, 10])).unwrap();
    assert!(message(&options).contains("sample 1 has the label 10, but there are 10 classes"));

    fs::remove_file(&labels).unwrap();
    assert!(message(&options).contains("holds no train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz"));

    let images = folder.path().join("train-images-idx3-ubyte.gz");
    fs::write(&labels, idx(&[2], &[0, 1])).unwrap();
    let whole = fs::read(&images).unwrap();
    fs::write(&images, &whole[..whole.len() - 9]).unwrap();
    let text = message(&options);
    assert!(
        text.contains("train-images-idx3-ubyte.gz is not a complete gzip file (it ends too early)"),
        "{text}"
    );
}

#[test]
fn cifar10_reads_batches_in_order_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("data_batch_2.bin.gz", &gzip(&cifar_record(2, 20)));
    write("data_batch_1.bin", &[cifar_record(1, 10), cifar_record(9, 11)].concat());
    write("data_batch_1.bin.gz", b"not looked at");
    write("test_batch.bin", &cifar_record(0, 30));
    write("other.bin", b"not looked at either");
    write("readme.html", b"");

    let options = options("cifar10", folder.path());
    let train = build(&options).unwrap();
    assert_eq!(labels(train.as_ref()), [Some(1), Some(9), Some(2)]);
    let image = sample(train.as_ref(), 2);
    assert_eq!([image[0], image[1024], image[3071]], [20, 21, 22].map(|v| v as f32 / 127.5 - 1.0));
    let test = build(&DataOptions { split: Some(Split::Test), ..options.clone() }).unwrap();
    assert_eq!(labels(test.as_ref()), [Some(0)]);
    let one =
        build(&DataOptions { path: Some(folder.path().join("data_batch_2.bin.gz")), ..options.clone() });
    assert_eq!(labels(one.unwrap().as_ref()), [Some(2)]);

    write("data_batch_3.bin", &cifar_record(2, 20)[1..]);
    let text = message(&options);
    assert!(
        text.contains("data_batch_3.bin has 3072 bytes, not a whole number of records of 3073"),
        "{text}"
    );
}

#[test]
fn cifar10_takes_files_of_any_name_where_none_has_the_usual_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("some.bin.gz"), gzip(&cifar_record(5, 0))).unwrap();
    let options = options("cifar10", folder.path());
    assert_eq!(labels(build(&options).unwrap().as_ref()), [Some(5)]);
    let text = message(&DataOptions { split: Some(Split::Test), ..options });
    assert!(text.contains("holds no test_batch*.bin"), "{text}");
}

#[test]
fn folder_takes_sub_folders_as_classes_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("dog/b.png"), 3, 2, [255, 0, 51]);
    write_image(&folder.path().join("cat/deep/er/x.BMP"), 3, 2, [0, 0, 0]);
    write_image(&folder.path().join("cat/a.gif"), 3, 2, [255, 255, 255]);
    write_image(&folder.path().join(".thumbnails/a.png"), 9, 9, [0, 0, 0]);
    fs::write(folder.path().join("labels.csv"), "no image").unwrap();

    let source = build(&options("folder", folder.path())).unwrap();
    assert_eq!(source.shape(), [3, 2, 3]);
    assert_eq!(source.classes().unwrap(), ["cat", "dog"]);
    assert_eq!(labels(source.as_ref()), [Some(0), Some(0), Some(1)]);
    assert_eq!(sample(source.as_ref(), 0), [1.0; 18]);
    assert_eq!(sample(source.as_ref(), 2), [[1.0; 6], [-1.0; 6], [-0.6; 6]].concat());
}

#[test]
fn folder_without_sub_folders_has_no_labels() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("train/1.png"), 2, 2, [0, 0, 0]);
    let text = message(&options("folder", folder.path()));
    assert!(text.contains("are splits (train), not classes; set `split`"), "{text}");
    let train = DataOptions { split: Some(Split::Train), ..options("folder", folder.path()) };
    let source = build(&train).unwrap();
    assert!(source.classes().is_none());
    assert_eq!(labels(source.as_ref()), [None]);

    write_image(&folder.path().join("train/a/2.png"), 2, 2, [0, 0, 0]);
    let text = message(&train);
    assert!(text.contains("1.png lies beside the class folders while"), "{text}");
}

#[test]
fn folder_wants_one_size_or_image_size() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a.png"), 4, 4, [255, 0, 0]);
    write_image(&folder.path().join("b.png"), 8, 6, [255, 0, 0]);
    let options = options("folder", folder.path());
    let text = message(&options);
    assert!(text.contains("b.png is 8×6 pixels but "), "{text}");
    assert!(text.contains("a.png is 4×4; set `image_size`"), "{text}");

    let source = build(&DataOptions { image_size: Some(3), ..options }).unwrap();
    assert_eq!(source.shape(), [3, 3, 3]);
    for index in 0..2 {
        assert_eq!(sample(source.as_ref(), index), [[1.0; 9], [-1.0; 9], [-1.0; 9]].concat());
    }
}

#[test]
fn image_size_keeps_the_middle_and_averages_what_it_shrinks() {
    let folder = tempfile::tempdir().unwrap();
    // Left and right of the middle square red; the square itself columns of black and white.
    let image = RgbImage::from_fn(64, 32, |x, _| match x {
        16..48 => Rgb([(x % 2 * 255) as u8; 3]),
        _ => Rgb([255, 0, 0]),
    });
    image.save(folder.path().join("a.png")).unwrap();
    let read = |side| {
        let options = DataOptions { image_size: Some(side), ..options("folder", folder.path()) };
        sample(build(&options).unwrap().as_ref(), 0)
    };
    let cropped = read(32);
    assert_eq!(cropped[..4], [-1.0, 1.0, -1.0, 1.0]);
    assert_eq!(cropped[..1024], cropped[1024..2048], "no red is left");
    // A filter that takes single pixels would return black or white.
    assert!(read(4).iter().all(|v| v.abs() < 0.25), "{:?}", &read(4)[..4]);
}

#[test]
fn a_small_folder_is_what_it_was_when_it_was_opened() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a.png"), 2, 2, [255, 0, 0]);
    let source = build(&options("folder", folder.path())).unwrap();
    write_image(&folder.path().join("a.png"), 3, 2, [0, 0, 0]);
    assert_eq!(sample(source.as_ref(), 0), [[1.0; 4], [-1.0; 4], [-1.0; 4]].concat());
}

#[cfg(unix)]
#[test]
fn folder_notices_a_link_to_a_folder_above() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("cat/a.png"), 2, 2, [0, 0, 0]);
    std::os::unix::fs::symlink(folder.path(), folder.path().join("cat/loop")).unwrap();
    assert!(
        message(&options("folder", folder.path())).contains("loop leads back to a folder that contains it")
    );
}

#[test]
fn cifar_is_read_inside_its_archive() {
    let folder = tempfile::tempdir().unwrap();
    let members = [
        ("cifar-10-batches-bin/batches.meta.txt", b"airplane".to_vec()),
        ("cifar-10-batches-bin/data_batch_2.bin", cifar_record(2, 20)),
        ("cifar-10-batches-bin/data_batch_1.bin", cifar_record(1, 10)),
        ("cifar-10-batches-bin/test_batch.bin", cifar_record(9, 30)),
    ];
    let archive = folder.path().join("cifar-10-binary.tar.gz");
    fs::write(&archive, gzip(&tar(&members))).unwrap();
    for path in [folder.path(), &archive] {
        let options = options("cifar10", path);
        assert_eq!(labels(build(&options).unwrap().as_ref()), [Some(1), Some(2)]);
        let test = DataOptions { split: Some(Split::Test), ..options };
        assert_eq!(labels(build(&test).unwrap().as_ref()), [Some(9)]);
    }
    let whole = fs::read(&archive).unwrap();
    for cut in [0, 30, whole.len() / 2, whole.len() - 12] {
        fs::write(&archive, &whole[..cut]).unwrap();
        let text = message(&options("cifar10", &archive));
        assert!(text.contains("cifar-10-binary.tar.gz"), "{cut}: {text}");
    }

    let archive = folder.path().join("cifar-100-binary.tar");
    let record = [&[3], &cifar_record(42, 10)[..]].concat();
    fs::write(&archive, tar(&[("cifar-100-binary/train.bin", record)])).unwrap();
    let options = options("cifar100", &archive);
    let fine = build(&options).unwrap();
    assert_eq!((fine.label(0), fine.classes().unwrap()[42].as_str()), (Some(42), "leopard"));
    let coarse = build(&DataOptions { labels: Some(LabelKind::Coarse), ..options }).unwrap();
    assert_eq!((coarse.label(0), coarse.classes().unwrap()[3].as_str()), (Some(3), "food_containers"));
}

#[test]
fn records_have_the_side_that_the_options_say() {
    let folder = tempfile::tempdir().unwrap();
    let record = |label: u8, red: u8| [&[label], &[red; 16][..], &[1; 16], &[2; 16]].concat();
    fs::write(folder.path().join("it.bin"), [record(0, 9), record(4, 8)].concat()).unwrap();
    let options = DataOptions { image_size: Some(4), ..options("records", folder.path()) };
    let source = build(&options).unwrap();
    assert_eq!((source.shape(), source.len(), source.classes().unwrap().len()), ([3, 4, 4], 2, 5));
    assert_eq!(sample(source.as_ref(), 1)[..16], [8.0 / 127.5 - 1.0; 16]);
    assert!(
        message(&DataOptions { image_size: None, ..options }).contains("whole number of records of 3073")
    );
}

#[test]
fn arrays_of_every_layout_and_type_are_the_same_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let read = |bytes: &[u8], more: DataOptions| {
        fs::write(&path, bytes).unwrap();
        let options = DataOptions { name: "npy".into(), path: Some(path.clone()), ..more };
        build(&options).map(|source| (source.shape(), sample(source.as_ref(), 1)))
    };
    let plain = || DataOptions::default();
    // Two images of 3×2×2: the channels of the second are 10 + pixel, 20 + pixel, 30 + pixel.
    let second: Vec<u8> = [10u8, 20, 30].iter().flat_map(|c| (0..4).map(move |p| c + p)).collect();
    let nchw = [&[0; 12][..], &second].concat();
    let last: Vec<u8> = (0..4u8).flat_map(|p| [10 + p, 20 + p, 30 + p]).collect();
    let nhwc = [&[0; 12][..], &last].concat();
    let expected: Vec<f32> = second.iter().map(|&v| (f64::from(v) / 127.5 - 1.0) as f32).collect();
    assert_eq!(read(&npy("|u1", "(2, 3, 2, 2)", &nchw), plain()).unwrap(), ([3, 2, 2], expected.clone()));
    assert_eq!(read(&npy("|u1", "(2, 2, 2, 3)", &nhwc), plain()).unwrap(), ([3, 2, 2], expected.clone()));

    let range = Some([0.0, 255.0]);
    let floats: Vec<u8> = nhwc.iter().flat_map(|&v| f32::from(v).to_be_bytes()).collect();
    let text = read(&npy(">f4", "(2, 2, 2, 3)", &floats), plain()).unwrap_err().to_string();
    assert!(text.contains("set `range`, such as [-1, 1]"), "{text}");
    let ranged = DataOptions { range, ..plain() };
    assert_eq!(read(&npy(">f4", "(2, 2, 2, 3)", &floats), ranged.clone()).unwrap().1, expected);
    let doubles: Vec<u8> = nhwc.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
    assert_eq!(read(&npy("<f8", "(2, 2, 2, 3)", &doubles), ranged.clone()).unwrap().1, expected);

    let narrow = DataOptions { range: Some([0.0, 32.0]), ..plain() };
    fs::write(&path, npy("|u1", "(2, 3, 2, 2)", &nchw)).unwrap();
    let source = build(&DataOptions { name: "npy".into(), path: Some(path.clone()), ..narrow }).unwrap();
    let error = source.read(1, &mut [0.0; 12]).unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains("holds 33 at [1, 11], outside `range`"),
        "{error}"
    );
    let empty = DataOptions { range: Some([1.0, 1.0]), ..plain() };
    let text = read(&npy("|u1", "(2, 3, 2, 2)", &nchw), empty).unwrap_err().to_string();
    assert!(text.starts_with("range = [1, 1] is no interval"), "{text}");

    let text = read(&npy("|u1", "(2, 3, 1, 3)", &[0; 18]), plain()).unwrap_err().to_string();
    assert!(text.contains("set `layout` to nchw or nhwc"), "{text}");
    let layout = |layout| DataOptions { layout: Some(layout), ..plain() };
    assert_eq!(read(&npy("|u1", "(2, 3, 1, 3)", &[0; 18]), layout(Layout::Nchw)).unwrap().0, [3, 1, 3]);
    assert_eq!(read(&npy("|u1", "(2, 3, 1, 3)", &[0; 18]), layout(Layout::Nhwc)).unwrap().0, [3, 3, 1]);
    assert_eq!(read(&npy("|u1", "(2, 5, 7)", &[0; 70]), plain()).unwrap().0, [1, 5, 7]);

    let text = read(&npy("|u1", "(2, 5, 7)", &[0; 69]), plain()).unwrap_err().to_string();
    assert!(text.contains("has 69 bytes of values where its header promises 70"), "{text}");
}

#[test]
fn a_value_that_is_not_finite_is_found_by_reading_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (array, archive) = (folder.path().join("x.npy"), folder.path().join("x.npz"));
    let mut images = Array3::<f32>::zeros((9, 5, 7));
    images[[8, 1, 2]] = f32::NAN;
    npy::write(&array, images.view()).unwrap();
    let mut zip = zip::ZipWriter::new(fs::File::create(&archive).unwrap());
    zip.start_file("images.npy", zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(&fs::read(&array).unwrap()).unwrap();
    zip.finish().unwrap();
    for (name, path) in [("npy", &array), ("npz", &archive)] {
        let options = DataOptions { range: Some([-1.0, 1.0]), ..options(name, path) };
        let source = build(&options).unwrap();
        assert!(source.holds_real_numbers());
        let error = read_all(&*source).unwrap_err().to_string();
        assert!(error.contains("holds NaN at [8, 9]") && !error.contains('\n'), "{name}: {error}");
        // Where some samples may be damaged this one is found and passed over.
        let tolerant = Tolerant::new(std::sync::Arc::<dyn Source>::from(source), 1);
        assert!(tolerant.holds_real_numbers());
        read_all(&tolerant).unwrap();
        assert_eq!(tolerant.bad().len(), 1);
    }
    assert!(!build(&DataOptions::new("digits")).unwrap().holds_real_numbers());
}

#[test]
fn truth_values_are_read_and_nothing_else_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let read = |descr: &str, order: &str, values: &[u8]| {
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (2, 3), }}\n");
        let length = (header.len() as u16).to_le_bytes();
        let bytes = [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), values].concat();
        fs::write(&path, bytes).unwrap();
        npy::read_bools(&path).map(|file| file.values).map_err(|error| error.to_string())
    };
    let [t, f] = [true, false];
    assert_eq!(read("|b1", "False", &[1, 0, 0, 1, 1, 0]).unwrap(), [t, f, f, t, t, f]);
    assert_eq!(read("|b1", "True", &[1, 0, 0, 1, 1, 0]).unwrap(), [t, f, t, f, t, f]);
    assert!(read("|b1", "False", &[1, 0, 0, 3, 1, 0]).unwrap_err().contains("holds 3 at [1, 0]"));
    assert!(read("|u1", "False", &[1, 0, 0, 1, 1, 0]).unwrap_err().contains("\"|u1\""));
    assert!(read("|b1", "False", &[1, 0]).unwrap_err().contains("ends after 2 of the 6 bytes"));
}

#[test]
fn numpy_archives_are_read_whether_compressed_or_not() {
    for (name, labelled) in
        [("stored.npz", true), ("deflated.npz", true), ("positional.npz", true), ("unlabelled.npz", false)]
    {
        // The shape [3, 3, 2, 4] does not tell its channels.
        let layout = (!labelled).then_some(Layout::Nchw);
        let source = build(&DataOptions { layout, ..options("npz", &golden(name)) }).unwrap();
        assert_eq!((source.len(), source.shape()), (3, [3, 2, 4]), "{name}");
        let values: Vec<f32> =
            sample(source.as_ref(), 2).iter().map(|v| ((v + 1.0) * 127.5).round()).collect();
        // [N, H, W, C] that counts from 0: sample 2 begins at 48, its green plane at 49.
        assert_eq!((values[0], values[7], values[8]), (48.0, 69.0, 49.0), "{name}");
        assert_eq!(source.classes().map(<[String]>::len), labelled.then_some(6), "{name}");
        assert_eq!(source.label(1), labelled.then_some(5), "{name}");
    }
    let bytes = fs::read(golden("deflated.npz")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let mut refused = 0;
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &damaged).unwrap();
        if let Err(error) = build(&options("npz", &path)) {
            assert!(error.to_string().contains("x.npz") && !error.to_string().contains('\n'), "{error}");
            refused += 1;
        }
    }
    assert!(refused > bytes.len() * 4, "{refused} of {}", bytes.len() * 8);
    for cut in 0..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        assert!(build(&options("npz", &path)).is_err(), "cut to {cut}");
    }
}

#[test]
fn latents_are_read_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (_folder, options) = in_file(folder, "latents", "l.safetensors", &latents(-7.25));
    let source = build(&options).unwrap();
    assert_eq!((source.len(), source.shape()), (2, [4, 2, 2]));
    assert_eq!(sample(source.as_ref(), 1), [-7.25; 16]);
    assert_eq!(labels(source.as_ref()), [Some(1), Some(0)]);
    let info = source.latents().unwrap();
    assert_eq!(
        (info.scaling_factor, info.shift_factor, info.vae_sha256.as_deref()),
        (Some(0.5), None, Some("ab"))
    );

    let path = options.path.clone().unwrap();
    fs::write(&path, latents(f32::NAN)).unwrap();
    let error = build(&options).unwrap().read(1, &mut [0.0; 16]).unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains("holds NaN at [1, 0], no finite number"),
        "{error}"
    );
    let bytes = latents(1.0);
    for cut in 0..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let text = message(&options);
        assert!(text.contains("l.safetensors") && !text.contains('\n'), "{cut}: {text}");
    }
    for (name, dtype, value) in [("f16.safetensors", "float16", 1.5), ("bf16.safetensors", "bfloat16", 1.5)] {
        let source = build(&DataOptions { path: Some(golden(name)), ..options.clone() }).unwrap();
        assert_eq!((source.len(), source.shape()), (2, [1, 2, 2]), "{dtype}");
        assert_eq!(sample(source.as_ref(), 1), [value, -value, 0.0, 2.0], "{dtype}");
        assert!(source.classes().is_none() && source.latents().unwrap().scaling_factor.is_none());
    }
    let text = message(&DataOptions { image_size: Some(2), ..options });
    assert!(text.contains("does not use the option `image_size`"), "{text}");
}

#[test]
fn shards_are_samples_by_the_names_of_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, members: &[(&str, Vec<u8>)]| fs::write(folder.path().join(name), tar(members)).unwrap();
    let json = |text: &str| text.as_bytes().to_vec();
    write("b.tar", &[("1.png", png(3, 2)), ("1.json", json(r#"{"label": 4, "url": "x"}"#))]);
    write(
        "a.tar",
        &[("2.cls", json("3")), ("x/2.png", png(3, 2)), ("x/2.cls", json(" 0\n")), ("2.png", png(3, 2))],
    );
    let options = options("tar", folder.path());
    let source = build(&options).unwrap();
    assert_eq!(labels(source.as_ref()), [Some(0), Some(3), Some(4)]);
    assert_eq!(source.shape(), [3, 2, 3]);
    assert_eq!(source.place(2), Some(folder.path().join("b.tar/1.png")));
    assert_eq!(sample(source.as_ref(), 0)[2], 80.0 / 127.5 - 1.0);
    assert_eq!(sample(source.as_ref(), 0), sample(source.as_ref(), 2));

    write("c.tar", &[("3.png", png(3, 2))]);
    let text = message(&options);
    assert!(text.contains("c.tar/3.png has no label, and others have"), "{text}");
    write("c.tar", &[("3.png", png(3, 2)), ("3.cls", json("cat"))]);
    assert!(message(&options).contains("has a label that is no number in "), "{}", message(&options));
    write("c.tar", &[("3.png", png(3, 2)), ("3.jpg", png(3, 2))]);
    assert!(message(&options).contains("has two images of one name"), "{}", message(&options));
    write("c.tar", &[("3.txt", json("no image"))]);
    assert!(message(&options).contains("c.tar holds no image"), "{}", message(&options));
    let whole = tar(&[("3.png", png(30, 20)), ("3.cls", json("1"))]);
    fs::write(folder.path().join("c.tar"), &whole[..600]).unwrap();
    assert!(message(&options).contains("c.tar"), "{}", message(&options));
}

#[cfg(feature = "parquet")]
#[test]
fn tables_of_images_are_read() {
    let source = build(&options("parquet", &golden("images.parquet"))).unwrap();
    assert_eq!((source.len(), source.shape()), (5, [3, 2, 3]));
    assert_eq!(labels(source.as_ref()), [Some(0), Some(2), Some(1), Some(2), Some(0)]);
    // Image i is (50 i, 10, 20) everywhere.
    for index in 0..5 {
        let image = sample(source.as_ref(), index);
        let expected = [50.0 * index as f32, 10.0, 20.0].map(|v| v / 127.5 - 1.0);
        assert_eq!([image[0], image[6], image[12]], expected);
    }
    let text = source.place(3).unwrap().display().to_string();
    assert!(text.ends_with("images.parquet/row-3"), "{text}");

    let bytes = fs::read(golden("images.parquet")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-0.parquet");
    for cut in (0..bytes.len()).step_by(7) {
        fs::write(&path, &bytes[..cut]).unwrap();
        let text = message(&options("parquet", &path));
        assert!(text.contains("train-0.parquet") && !text.contains('\n'), "{cut}: {text}");
    }
    fs::write(&path, &bytes).unwrap();
    let split = |split| DataOptions { split: Some(split), ..options("parquet", folder.path()) };
    assert_eq!(build(&split(Split::Train)).unwrap().len(), 5);
    assert!(message(&split(Split::Test)).contains("holds no test*.parquet"));
}

#[test]
fn a_random_crop_depends_on_seed_epoch_and_sample_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png"] {
        // Red says the column.
        RgbImage::from_fn(16, 4, |x, _| Rgb([x as u8, 0, 0])).save(folder.path().join(name)).unwrap();
    }
    let options =
        DataOptions { image_size: Some(4), crop: Some(Crop::Random), ..options("folder", folder.path()) };
    let loader = |batch_size| {
        let options_of_loader = LoaderOptions { batch_size, seed: 3, flip: false };
        Loader::new(build(&options).unwrap(), options_of_loader).unwrap().random_crops()
    };
    let column = |value: f32| ((value + 1.0) * 127.5).round() as usize;
    let mut seen = [0; 13];
    for step in 0..200 {
        let batch = loader(2).batch_at(step).unwrap();
        for (row, image) in batch.images.values().outer_iter().enumerate() {
            seen[column(image[[0, 0, 0]])] += 1;
            // The same sample of the same epoch, drawn in batches of one.
            let single = [2 * step, 2 * step + 1].map(|step| loader(1).batch_at(step).unwrap());
            let single = single.iter().find(|single| single.index[0] == batch.index[row]).unwrap();
            assert_eq!(single.images.values().index_axis(ndarray::Axis(0), 0), image);
        }
    }
    assert!(seen.iter().all(|&count| count > 8), "all 13 places, about 31 times each: {seen:?}");
    let text = message(&DataOptions { image_size: None, ..options.clone() });
    assert_eq!(text, "`crop` needs `image_size`; set both, or remove it");
    let text = message(&DataOptions { image_size: None, crop: None, resize: Some(Resize::Box), ..options });
    assert_eq!(text, "`resize` needs `image_size`; set both, or remove it");
}

/// Files of every way to pixels: those that a decoder writes where they belong, and those that are turned, cropped or resized.
#[test]
fn pixels_become_the_values_that_are_read_also_flipped_and_scaled() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..12u8 {
        let image = RgbImage::from_fn(9, 9, |x, y| Rgb([index * 20, (x * 25) as u8, (x * y) as u8]));
        image.save(folder.path().join(format!("{index:02}.{}", ["png", "jpg"][index as usize % 2]))).unwrap();
    }
    for image_size in [None, Some(9), Some(5)] {
        let source: Arc<dyn Source> =
            build(&DataOptions { image_size, ..options("folder", folder.path()) }).unwrap().into();
        let side = image_size.unwrap_or(9);
        let mut mirrored = 0;
        for (flip, scale) in [(false, 1.0), (true, 0.5)] {
            let options = LoaderOptions { batch_size: 4, seed: 5, flip };
            let batch = Loader::new(source.clone(), options).unwrap().scaled(scale).batch_at(1).unwrap();
            let Images::Pixels { pixels, .. } = &batch.images else { panic!("a folder holds pixels") };
            assert_eq!((pixels.dim(), batch.images.dim()), ((4, side, side), [4, 3, side, side]));
            let mut values = batch.images.clone();
            assert_eq!(*values.make_values(), batch.images.values());
            assert!(matches!(values, Images::Values(_)));
            for (found, &index) in batch.images.values().outer_iter().zip(&batch.index) {
                let mut expected = Array3::zeros((3, side, side));
                source.read(index as usize, expected.as_slice_mut().unwrap()).unwrap();
                expected *= scale as f32;
                let mirror = expected.slice(s![.., .., ..;-1]);
                mirrored += usize::from(found == mirror);
                assert!(found == expected || (flip && found == mirror));
            }
        }
        assert!(mirrored > 0);
    }
}

#[test]
fn a_folder_may_hold_as_many_damaged_images_as_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..10 {
        write_image(&folder.path().join(format!("{index}.png")), 2, 2, [index, 0, 0]);
    }
    fs::write(folder.path().join("3.png"), b"no image").unwrap();
    let options = options("folder", folder.path());
    assert!(message(&options).contains("cannot decode the image") && message(&options).contains("3.png"));
    let some = DataOptions { max_bad: Some(0.1), ..options.clone() };
    let source = build(&some).unwrap();
    assert_eq!((source.len(), some.most_bad(10).unwrap()), (10, 1));
    assert!(source.read(3, &mut [0.0; 12]).unwrap_err().is_damage());
    write_image(&folder.path().join("7.png"), 2, 3, [0, 0, 0]);
    let text = message(&some);
    assert!(text.starts_with("2 of 10 samples are damaged, and max_bad allows 1"), "{text}");
    let text = message(&DataOptions { max_bad: Some(1.5), ..options });
    assert!(text.starts_with("max_bad = 1.5 is out of range"), "{text}");
}

#[test]
fn another_image_takes_the_place_of_a_damaged_one_also_as_pixels() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..10 {
        write_image(&folder.path().join(format!("{index}.png")), 2, 2, [20 * index, 0, 0]);
    }
    let damaged = folder.path().join("3.png");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() - 20]).unwrap();
    let source = build(&DataOptions { max_bad: Some(0.1), ..options("folder", folder.path()) }).unwrap();
    let source: Arc<dyn Source> = Arc::new(Tolerant::new(source, 1));
    let loader = Loader::new(source.clone(), LoaderOptions { batch_size: 10, seed: 1, flip: false }).unwrap();
    let batch = loader.batch_at(0).unwrap();
    assert!(matches!(batch.images, Images::Pixels { .. }));
    for (image, &index) in batch.images.values().outer_iter().zip(&batch.index) {
        let red = image[[0, 0, 0]];
        assert_eq!(red, sample(&*source, index as usize)[0]);
        assert_eq!(red != 20.0 * index as f32 / 127.5 - 1.0, index == 3);
    }
}

/// A small picture that is not flat, in every format that is read.
fn encoded() -> impl Iterator<Item = (ImageFormat, Vec<u8>)> {
    let image = RgbImage::from_fn(24, 16, |x, y| Rgb([(x * 10) as u8, (y * 15) as u8, (x * y) as u8]));
    [ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP]
        .into_iter()
        .map(move |format| {
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            (format, bytes.into_inner())
        })
}

/// Builds and reads a folder of this one file; an error names the file.
fn read_file(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("it.png"), bytes).unwrap();
    let options = DataOptions { image_size: Some(16), ..options("folder", folder.path()) };
    let mut out = vec![0.0; 3 * 16 * 16];
    let read = build(&options).and_then(|source| source.read(0, &mut out));
    read.map(|()| out).map_err(|error| {
        let text = error.to_string();
        assert!(text.contains("it.png") && !text.contains('\n'), "{text}");
        text
    })
}

#[test]
fn every_format_is_told_by_its_content() {
    for (format, bytes) in encoded() {
        let image = read_file(&bytes).unwrap();
        // Red grows by 10 a column; the square starts at column 4.
        let red = |x: usize| (image[x] + 1.0) * 127.5;
        assert!((red(0) - 40.0).abs() < 30.0 && (red(15) - 190.0).abs() < 30.0, "{format:?}");
    }
}

#[test]
fn images_that_are_cut_short_are_refused() {
    for (format, bytes) in encoded() {
        for cut in [0, 1, 10, bytes.len() / 4, bytes.len() / 2, bytes.len() * 3 / 4] {
            assert!(read_file(&bytes[..cut]).is_err(), "{format:?} cut to {cut} of {}", bytes.len());
        }
    }
}

#[test]
fn a_header_cannot_ask_for_more_memory_than_allowed() {
    let (_, mut bmp) = encoded().next().unwrap();
    bmp[18..22].copy_from_slice(&16_385u32.to_le_bytes());
    assert!(read_file(&bmp).is_err());
    bmp[18..26].copy_from_slice(&[0, 64, 0, 0, 0, 64, 0, 0]);
    let text = read_file(&bmp).unwrap_err();
    assert!(text.contains("limit"), "16,384×16,384 pixels are more than the limit: {text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn damaged_images_are_read_or_refused(at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for (_, mut bytes) in encoded() {
            for (at, value) in &at {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            if let Ok(image) = read_file(&bytes) {
                prop_assert!(image.iter().all(|v| (-1.0..=1.0).contains(v)));
            }
        }
    }
}
