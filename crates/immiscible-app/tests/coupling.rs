//! `immiscible coupling` as a user runs it.

use immiscible_data::npy;
use ndarray::{Array2, Array3, aview1};
use std::fs;

mod common;

use common::{immiscible, refused, succeed, text};

#[test]
fn couplings_are_tried_against_the_prices_of_the_whole_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let fitted = succeed(folder, &["coupling", "fit", "digits", "--out", "prices.bin"]);
    assert!(
        fitted.contains("1797 after")
            && fitted.contains("χ² 0.0")
            && fitted.contains("alignment at most 12."),
        "{fitted}"
    );

    let bench = ["coupling", "bench", "digits", "--pools", "128,1024", "--candidates", "4"];
    let said = succeed(folder, &[&bench[..], &["--prices", "prices.bin", "--out", "table"]].concat());
    assert!(said.contains("by semidiscrete prices for digits: 1797 of 1×8×8"), "{said}");
    let table = fs::read_to_string(folder.join("table.json")).unwrap();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let number = |coupling: &str, field: &str| {
        let rows = table["couplings"].as_array().unwrap().iter();
        let row = rows
            .clone()
            .find(|row| row["coupling"] == coupling)
            .unwrap_or_else(|| panic!("{coupling}: {said}"));
        row[field].as_f64().unwrap_or_else(|| panic!("{field}: {row}"))
    };
    let share = |coupling: &str| number(coupling, "alignment") / table["full_alignment"][0].as_f64().unwrap();
    assert!(number("independent", "alignment").abs() < 4.0 * number("independent", "alignment_error"));
    let [small, large] = ["assignment 128", "assignment 1024"].map(share);
    assert!(0.7 < small && small + 0.1 < large && large < 1.0, "{small}, {large}");
    assert!(share("priced_knn 4") > share("knn 4"));
    assert!(number("knn 4", "energy") < 0.92 && (number("priced_knn 4", "energy") - 1.0).abs() < 0.01);
    assert!(number("knn 4", "mean_shift") > 5.0);

    // What can be set is in the table as well: nearly as good, worse, without effect, or the other way round.
    for same in ["squared_l2", "l2", "l2 in f16", "l1", "int8", "standardised"] {
        let share = share(&format!("assignment 1024, {same}"));
        assert!(0.6 * large < share && share < 1.01 * large, "{same}: {share} of {large}");
    }
    assert!(share("assignment 1024, blocks of 128") < large);
    assert!(share("assignment 1024, 2 noises an image") > large);
    let uncoupled = number("assignment 1024, shuffled", "alignment");
    assert!(uncoupled.abs() < 4.0 * number("assignment 1024, shuffled", "alignment_error"), "{uncoupled}");
    assert!((share("assignment 1024, flip") + large).abs() < 1e-3);
    assert!((share("knn 4, l2 in f16") - share("knn 4")).abs() < 0.05);
    assert!((share("knn 4, flip") + share("knn 4")).abs() < 1e-3);
    let coarse = share("knn 4, 4×4 cells");
    assert!(0.1 * share("knn 4") < coarse && coarse < share("knn 4"), "{coarse}");
    for extension in ["md", "svg"] {
        let text = fs::read_to_string(folder.join("table").with_extension(extension)).unwrap();
        assert!(text.contains("assignment 1024") && !text.contains("NaN"), "{text}");
    }
}

/// Prices take longer than everything else; what needs them is then left out.
#[test]
fn a_table_without_prices_has_no_share_of_the_full_alignment() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let bench = ["coupling", "bench", "digits", "--pools", "64", "--candidates", "2", "--rows", "512"];
    let said = succeed(folder, &[&bench[..], &["--no-prices", "--out", "table"]].concat());
    assert!(!said.contains("full") && said.contains("| assignment 64 | 64 |"), "{said}");
    let columns: Vec<usize> =
        said.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
    assert!(columns.len() > 4 && columns.iter().all(|count| *count == columns[0]), "{said}");
    let table = fs::read_to_string(folder.join("table.json")).unwrap();
    assert!(!table.contains("full_") && !table.contains("chi_squared"), "{table}");
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    for key in ["date", "commit", "cpu", "cores", "load", "command"] {
        assert!(table["provenance"][key] != "" && !table["provenance"][key].is_null(), "{key}: {table}");
    }
    let plot = fs::read_to_string(folder.join("table.svg")).unwrap();
    assert!(plot.contains("assignment 64") && !plot.contains('%') && !plot.contains("NaN"), "{plot}");

    let both = immiscible(folder, &[&bench[..], &["--no-prices", "--prices", "p.bin"]].concat());
    let message = text(&both.stderr);
    assert!(
        both.status.code() == Some(2) && message.contains("'--no-prices' cannot be used with"),
        "{message}"
    );
}

#[test]
fn images_of_an_array_have_the_labels_that_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let images =
        Array3::from_shape_fn((64, 3, 4), |(i, y, x)| ((i * 7 + y * 20 + x * 5) % 13) as f32 / 6.0 - 1.0);
    npy::write(&folder.join("x.npy"), images.view()).unwrap();
    // Sorted, as data sets often are: pools must not be of one class.
    let labels: Vec<i64> = (0..64).map(|i| i / 32).collect();
    npy::write(&folder.join("y.npy"), aview1(&labels)).unwrap();
    let fit = ["coupling", "fit", "x.npy", "--labels", "y.npy", "--class-wise", "--flip", "--out", "p.bin"];
    let said = succeed(folder, &fit);
    assert!(said.contains("class 0") && said.contains("class 1"), "{said}");

    let bench = ["coupling", "bench", "x.npy", "--labels", "y.npy", "--pools", "32", "--candidates", "2"];
    let said = succeed(folder, &[&bench[..], &["--note", "on a test"]].concat());
    assert!(said.contains("assignment 32, class-wise") && said.contains("on a test"), "{said}");
    let command = "`immiscible coupling bench x.npy --labels y.npy --pools 32 --candidates 2`";
    assert!(said.starts_with("x.npy: 64 of 12 values; ") && said.contains(command), "{said}");
    let whole = folder.join("x.npy");
    let bench = ["coupling", "bench", whole.to_str().unwrap(), "--pools", "32", "--no-prices"];
    let said = succeed(folder, &[&bench[..], &["--candidates", "2", "--name", "stripes"]].concat());
    assert!(
        said.starts_with("stripes: 64 of 12 values; ") && !said.contains(folder.to_str().unwrap()),
        "{said}"
    );

    npy::write(&folder.join("values.npy"), Array2::<f32>::ones((8, 12)).view()).unwrap();
    for (arguments, words) in [
        (&["coupling", "fit", "values.npy", "--flip", "--out", "q.bin"][..], &["--flip", "no images"][..]),
        (&["coupling", "bench", "values.npy", "--pools", "4"], &["all images are alike"]),
        (&["coupling", "fit", "x.npy", "--out", "absent/q.bin"], &["--out absent/q.bin", "folder"]),
        (&["coupling", "bench", "x.npy", "--image-size", "8"], &["--image-size"]),
        (&["coupling", "fit", "fashion-mnist", "--out", "q.bin"], &["DATA = fashion-mnist", "NAME:PATH"]),
        (&["coupling", "fit", "x.npy", "--class-wise", "--out", "q.bin"], &["--class-wise", "--labels"]),
        (&["coupling", "fit", "x.npy", "--chi-squared", "0", "--out", "q.bin"], &["--chi-squared 0"]),
        (&["coupling", "fit", "nowhere.npy", "--out", "q.bin"], &["nowhere.npy"]),
        (&["coupling", "fit", "figits", "--out", "q.bin"], &["figits", "digits"]),
        (&["coupling", "bench", "x.npy", "--pools", "128"], &["--pools 128", "64 images"]),
        (&["coupling", "bench", "x.npy", "--pools", "1"], &["--pools 1", "at least 2"]),
        (&["coupling", "bench", "x.npy", "--pools", "32", "--rows", "99"], &["--rows 99", "64"]),
        (&["coupling", "bench", "x.npy", "--pools", "32", "--prices", "p.bin"], &["p.bin", "each class"]),
        (
            &["coupling", "bench", "x.npy", "--pools", "32", "--prices", "x.npy"],
            &["--prices", "x.npy", "semidiscrete"],
        ),
        (&["coupling", "bench", "digits", "--labels", "y.npy"], &["--labels", "digits"]),
    ] {
        let message = refused(folder, arguments);
        assert!(words.iter().all(|word| message.contains(word)), "{arguments:?}: {message}");
    }
    let mut bad = images;
    bad[(3, 1, 2)] = f32::NAN;
    npy::write(&folder.join("bad.npy"), bad.view()).unwrap();
    let message = refused(folder, &["coupling", "bench", "bad.npy", "--pools", "32"]);
    assert!(message.contains("bad.npy") && message.contains("not finite"), "{message}");
}
