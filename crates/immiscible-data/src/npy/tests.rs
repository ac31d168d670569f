use ndarray::{ArrayD, aview1};
use proptest::prelude::*;

use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("npy")
}

/// What `tests/golden/npy.py` puts at each position, in C order.
fn reals() -> Vec<f64> {
    (0..12).map(|k| f64::from(k) / 4.0 - 2.0).collect()
}

/// The bytes of a file with this dictionary.
fn file(dictionary: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dictionary.len() as u16).to_le_bytes());
    bytes.extend(dictionary.as_bytes());
    bytes.extend(body);
    bytes
}

fn dictionary(descr: &str, shape: &str) -> String {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n")
}

fn refused(bytes: &[u8]) -> String {
    let path = Path::new("x.npy");
    let error = decode::<f32>(bytes, path).expect_err("this must be refused").to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("x.npy ") && error.len() < 300, "{error}");
    error
}

#[test]
fn numpy_s_reals_of_every_width_and_order() {
    for width in ["f2", "f4", "f8"] {
        for order in ["little-c", "little-fortran", "big-c", "big-fortran"] {
            let path = golden(&format!("{width}-{order}"));
            let double = read::<f64>(&path).unwrap();
            assert_eq!((double.shape.as_slice(), double.values), (&[3, 2, 2][..], reals()), "{path:?}");
            let single = read::<f32>(&path).unwrap();
            assert_eq!(single.values, reals().into_iter().map(|x| x as f32).collect::<Vec<_>>(), "{path:?}");
            let rows = single.rows().unwrap();
            assert_eq!(rows.dim(), (3, 4));
            assert_eq!(rows[(1, 2)], single.values[6]);
        }
    }
    for name in ["version-2", "version-3"] {
        let array = read::<f64>(&golden(name)).unwrap();
        assert_eq!((array.shape.as_slice(), array.values), (&[3, 4][..], reals()), "{name}");
    }
}

#[test]
fn numpy_s_labels_of_every_type() {
    let types = [
        "i1",
        "u1",
        "i2-little",
        "i2-big",
        "u2-little",
        "i4-little",
        "u4-big",
        "i8-little",
        "i8-big",
        "u8-little",
    ];
    for kind in types {
        assert_eq!(read_labels(&golden(&format!("labels-{kind}"))).unwrap(), [0, 1, 2, 100], "{kind}");
    }
    for (name, words) in [
        ("labels-negative", "holds -1 at [1], no label"),
        ("labels-large", "holds 4294967296 at [1], no label"),
        ("labels-matrix", "has the shape [2, 2], but a vector"),
        ("vector", "values of the type \"<f4\", but an integer type"),
    ] {
        let error = read_labels(&golden(name)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn rows_need_two_axes() {
    assert_eq!(read::<f32>(&golden("scalar")).unwrap().values, [1.5]);
    assert_eq!(read::<f32>(&golden("no-rows")).unwrap().rows().unwrap().dim(), (0, 3));
    for (name, words) in [("vector", "vector.npy has the shape [12]"), ("scalar", "has the shape []")] {
        let error = read::<f32>(&golden(name)).unwrap().rows().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("two axes or more"), "{error}");
    }
}

#[test]
fn what_is_not_finite_passes_and_what_overflows_does_not() {
    let special = read::<f32>(&golden("special")).unwrap().values;
    assert!(special[1].is_nan() && special[2] == f32::NEG_INFINITY);
    assert!(special[3] == 0.0 && special[3].is_sign_negative());
    let error = read::<f32>(&golden("beyond-f32")).unwrap_err().to_string();
    assert!(error.contains("holds -1e300 at [1, 2], a number outside the range of float32"), "{error}");
    assert_eq!(read::<f64>(&golden("beyond-f32")).unwrap().values[5], -1e300);
}

#[test]
fn other_types_are_named() {
    for (name, words) in [
        ("complex", "the type \"<c8\", but float16, float32 or float64"),
        ("bool", "the type \"|b1\""),
        ("labels-i8-little", "the type \"<i8\""),
        ("record", "the type \"[('a', '<f4'), ('b', '<i8', (2,))]\""),
    ] {
        let error = read::<f32>(&golden(name)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn hostile_files_are_one_line_each_and_cost_nothing() {
    let claims = |shape: &str| refused(&file(&dictionary("'<f4'", shape), &[0; 8]));
    let huge = claims("(1000000, 1000000000)");
    assert!(huge.contains("ends after 8 of the 4000000000000000 bytes"), "{huge}");
    for overflowing in ["(4294967296, 4294967296, 4294967296)", "(0, 4294967296, 4294967296)"] {
        assert!(claims(overflowing).contains("fits in no memory"));
    }
    for unreadable in
        ["(-3,)", "(99999999999999999999999,)", "(3)", "3", "(3,", "(3;)", "[3]", "(,)", "((3,),)"]
    {
        assert!(claims(unreadable).contains("cannot be understood from"), "{unreadable}");
    }
    assert!(claims("(1,)").contains("goes on behind the 4 bytes"));
    assert!(claims("(3,)").contains("ends after 8 of the 12 bytes"));

    let mut four_gigabytes = b"\x93NUMPY\x02\x00".to_vec();
    four_gigabytes.extend(u32::MAX.to_le_bytes());
    assert!(refused(&four_gigabytes).contains("header of 4294967295 bytes; at most 10000"));
    assert!(refused(&file(&"(".repeat(9_999), &[])).contains("cannot be understood"));
    assert!(refused(&file(&dictionary(&"[".repeat(9_000), "(1,)"), &[])).contains("cannot be understood"));

    for (bytes, words) in [
        (&b""[..], "too short"),
        (b"PK\x03\x04 and more", "no npy file"),
        (b"\x93NUMPY\x09\x00 and more", "npy version 9"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr'", "ends inside its header"),
    ] {
        assert!(refused(bytes).contains(words), "{bytes:?}");
    }
    for (text, words) in [
        ("{}", "without one of"),
        ("{'descr': '<f4', 'descr': '<f4'}", "cannot be understood"),
        ("{'descr': '<f4', 'shape': (2,), 'fortran_order': 0}", "cannot be understood from \"0}\""),
        ("{'descr': '<f4', 'shape': (2,), 'fortran_order': False, 'more': ''}", "cannot be understood"),
        ("{'descr': '<f4', 'shape': (2,), 'fortran_order': False} {", "cannot be understood from \"{\""),
        ("{'descr': '', 'shape': (2,), 'fortran_order': False}", "the type \"\""),
        ("{'descr': 'é', 'shape': (2,), 'fortran_order': False}", "the type \"é\""),
    ] {
        let error = refused(&file(text, &[0; 8]));
        assert!(error.contains(words), "{text}: {error}");
    }
}

/// The other ways of writing the same dictionary that Python allows.
#[test]
fn the_dictionary_may_be_written_in_any_order() {
    for text in [
        "{\"shape\":(2,1),\"fortran_order\":True,\"descr\":\"<f4\"}",
        " { 'fortran_order' : False , 'shape' : ( 2 , 1 , ) , 'descr' : '<f4' , } \n\n",
    ] {
        let array = decode::<f32>(&file(text, &[0; 8])[..], Path::new("x.npy")).unwrap();
        assert_eq!((array.shape.as_slice(), array.values.as_slice()), (&[2, 1][..], &[0.0, 0.0][..]));
    }
}

#[test]
fn missing_files_and_folders_are_named() {
    for path in [golden("absent"), Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()] {
        let error = read::<f32>(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", path.display())), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = write(folder.path(), aview1(&[1.0_f32])).unwrap_err().to_string();
    assert!(error.starts_with("cannot write "), "{error}");
}

/// Longer than one chunk, so that the chunks meet.
#[test]
fn long_arrays_come_back() {
    let values: Vec<f32> = (0..3 * CHUNK / 4 + 5).map(|k| k as f32).collect();
    let mut bytes = Vec::new();
    encode(&mut bytes, aview1(&values)).unwrap();
    assert_eq!(decode::<f32>(&bytes[..], Path::new("x.npy")).unwrap().values, values);
}

#[test]
fn what_is_written_is_what_numpy_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/array.npy");
    for name in ["f4-little-c", "vector", "scalar", "no-rows"] {
        let array = read::<f32>(&golden(name)).unwrap();
        write(&path, ArrayD::from_shape_vec(array.shape, array.values).unwrap().view()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(golden(name)).unwrap(), "{name}");
    }
    write(&path, aview1(&[0_i64, 1, 2, 100])).unwrap();
    assert_eq!(fs::read(&path).unwrap(), fs::read(golden("labels-i8-little")).unwrap());
    assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1, "the temporary file is gone");
}

proptest! {
    #[test]
    fn every_array_comes_back(shape in prop::collection::vec(0_usize..5, 0..5), seed: u32) {
        let values = (0..shape.iter().product::<usize>()).map(|k| f32::from_bits((k as u32).wrapping_mul(seed)));
        let array = ArrayD::from_shape_vec(shape.clone(), values.collect()).unwrap();
        let mut bytes = Vec::new();
        encode(&mut bytes, array.view()).unwrap();
        let back = decode::<f32>(&bytes[..], Path::new("x.npy")).unwrap();
        prop_assert_eq!(&back.shape, &shape);
        let bits = |values: &mut dyn Iterator<Item = f32>| values.map(f32::to_bits).collect::<Vec<_>>();
        prop_assert_eq!(bits(&mut back.values.into_iter()), bits(&mut array.into_iter()));
    }

    #[test]
    fn mutated_files_never_panic(
        name in prop::sample::select(vec!["f8-big-fortran", "labels-i8-little", "record", "version-2"]),
        edits in prop::collection::vec((0_usize..176, any::<u8>()), 1..6),
        len in 0_usize..256,
    ) {
        let mut bytes = fs::read(golden(name)).unwrap();
        for (at, byte) in edits {
            bytes[at % 160] = byte;
        }
        bytes.resize(len, 0);
        // Whatever is accepted agrees with its own shape.
        if let Ok(array) = decode::<f32>(&bytes[..], Path::new("x.npy")) {
            prop_assert_eq!(array.shape.iter().product::<usize>(), array.values.len());
        }
        let _ = decode_labels(&bytes[..], Path::new("x.npy"));
    }

    #[test]
    fn mutated_dictionaries_never_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "(", ")", "[", "]", ",", ":", "'", "\"", " ", "\n", "-", "1", "0", "4294967296", "é", "True",
                "False", "'descr'", "'shape'", "'fortran_order'", "'<f4'", "'>f8'", "'descr': '<f4', ", "'shape': (",
                "'fortran_order': True, ",
            ]),
            0..24,
        ),
    ) {
        let bytes = file(&pieces.concat(), &[0; 64]);
        let _ = decode::<f64>(&bytes[..], Path::new("x.npy"));
        let _ = decode_labels(&bytes[..], Path::new("x.npy"));
    }
}
