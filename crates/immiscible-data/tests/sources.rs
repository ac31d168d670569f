//! The data sets as a user meets them: files in a folder, options, batches and messages.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use image::{ImageFormat, Rgb, RgbImage};
use immiscible_data::{DataError, DataOptions, SOURCES, Source, Split, build};
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

/// A tiny data set for each name of the registry.
fn fixture(name: &str) -> (Option<TempDir>, DataOptions) {
    let folder = tempfile::tempdir().unwrap();
    match name {
        "digits" => return (None, DataOptions::new(name)),
        "cifar10" => fs::write(folder.path().join("data_batch_1.bin"), cifar_record(4, 10)).unwrap(),
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
        assert!(text.starts_with(&format!("{} holds no ", folder.path().display())), "{name}: {text}");
    }
}

#[test]
fn options_are_refused_where_they_mean_nothing() {
    assert_eq!(
        message(&DataOptions::new("mnits")),
        "no data set is called `mnits`; choose one of cifar10, digits, fashion-mnist, folder, idx, mnist"
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
    assert!(text.contains("holds no test_batch.bin"), "{text}");
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
fn folder_refuses_a_file_that_changes_its_size_later() {
    let folder = tempfile::tempdir().unwrap();
    write_image(&folder.path().join("a.png"), 2, 2, [0, 0, 0]);
    let source = build(&options("folder", folder.path())).unwrap();
    write_image(&folder.path().join("a.png"), 3, 2, [0, 0, 0]);
    assert!(matches!(source.read(0, &mut [0.0; 12]), Err(DataError::ImageSize { width: 3, .. })));
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
