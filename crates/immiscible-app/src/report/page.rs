//! The page: HTML with its style, its pictures and nothing else.

use super::chart::{Series, chart, smoothed, stroke};
use super::run::Run;
use crate::curves::CURVES;
use immiscible_train::Record;
use std::collections::BTreeSet;
use std::fmt::Write;
use toml::Value;

const STYLE: &str = include_str!("style.css");

/// Titles of the charts, with units, the keys of `metrics.jsonl` that they show, and whether their axis may be logarithmic.
const CHARTS: &[(&str, &str, bool)] = &[
    ("Loss", "loss", true),
    ("Gradient norm before clipping", "gradient_norm", true),
    ("Learning rate", "learning_rate", false),
    ("Images per second", "images_per_second", false),
    ("Coupling, milliseconds a step", "coupling_ms", false),
    ("Drop of the distance between images and noises, %", "distance_drop_percent", false),
    ("Alignment ⟨ε, x − x̄⟩", "alignment", false),
];

/// Means over all steps, with their decimals.
const MEANS: &[(&str, &str, usize)] = &[
    ("images per second", "images_per_second", 0),
    ("step, ms", "step_ms", 1),
    ("… of which waiting for the batch, ms", "waited_ms", 2),
    ("coupling, ms a step", "coupling_ms", 2),
    ("… of which delays the step, ms", "coupling_visible_ms", 2),
    ("coupling, % of the step", "coupling_share_percent", 2),
    ("distance to the noise drawn, L2", "distance_before", 3),
    ("distance to the noise taken, L2", "distance_after", 3),
    ("distance drop, %", "distance_drop_percent", 2),
    ("alignment ⟨ε, x − x̄⟩", "alignment", 3),
    ("coefficient Σ⟨x, ε⟩ / Σ|x|²", "coefficient", 4),
    ("energy |ε|² / D, 1 for normal noise", "energy", 4),
    ("mean shift, 1 for normal noise", "mean_shift", 3),
];

/// The page on `runs`.
pub(crate) fn page(runs: &[Run]) -> String {
    let title = match runs {
        [run] => format!("{}: training report", escape(&run.name)),
        _ => format!("{} runs: training report", runs.len()),
    };
    let sections = [
        ("Runs", about(runs)),
        ("Curves", curves(runs)),
        ("Samples", samples(runs)),
        ("Coupling and throughput", means(runs)),
        ("What differs", differences(runs)),
        ("Configs", configs(runs)),
    ];
    // No script and nothing from elsewhere: whatever a run's name holds, the browser is told not to.
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         img-src data:; style-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n"
    );
    for (heading, content) in sections {
        if !content.is_empty() {
            let _ = write!(page, "<section>\n<h2>{heading}</h2>\n{content}</section>\n");
        }
    }
    page.push_str("</body>\n</html>\n");
    page
}

/// A short line as the run's curves are drawn, and its name.
fn key(i: usize, run: &Run) -> String {
    format!(
        "<svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path {} d=\"M1 4H23\"/></svg>{}",
        stroke(i),
        escape(&run.name)
    )
}

fn about(runs: &[Run]) -> String {
    let mut list = String::from("<ul class=\"runs\">\n");
    for (i, run) in runs.iter().enumerate() {
        let text = |table, key| run.setting(table, key).and_then(Value::as_str).unwrap_or("?");
        let data = run.data.as_ref().map_or_else(
            || text("data", "name").to_owned(),
            |data| {
                format!("{}, {} of {}", data.name, data.samples, data.shape.map(|n| n.to_string()).join("×"))
            },
        );
        let of = run.setting("train", "steps").and_then(Value::as_integer);
        let of = of.map_or(String::new(), |steps| format!(" of {steps}"));
        let step = run.records.last().map_or(0, |record| record.step);
        let _ = write!(
            list,
            "<li><strong>{}</strong>step {step}{of} · {} coupling · {} on {}",
            key(i, run),
            escape(text("coupling", "kind")),
            escape(text("model", "kind")),
            escape(&data)
        );
        let skipped: u64 = run.records.iter().map(|record| record.skipped).fold(0, u64::saturating_add);
        if skipped > 0 {
            let _ = write!(list, " · {skipped} steps skipped, whose loss or gradient was not finite");
        }
        if run.records.is_empty() {
            list.push_str(" · no lines in metrics.jsonl yet");
        }
        if run.damaged > 0 {
            let _ =
                write!(list, " · <em>damaged lines of metrics.jsonl that are left out: {}</em>", run.damaged);
        }
        list.push_str("</li>\n");
    }
    list.push_str("</ul>\n");
    list
}

fn points(run: &Run, key: &str) -> Vec<(u64, f64)> {
    let curve = CURVES.iter().find(|curve| curve.key == key).expect("a key of metrics.jsonl");
    run.records.iter().filter_map(|record| Some((record.step, curve.of(record)?))).collect()
}

fn curves(runs: &[Run]) -> String {
    let mut charts = String::new();
    for (title, key, may_be_log) in CHARTS {
        let lines = runs.iter().enumerate().map(|(look, run)| (look, &run.name, points(run, key)));
        let drawn = if *key == "loss" {
            let (faint, strong): (Vec<_>, Vec<_>) = lines
                .map(|(look, name, points)| {
                    let smooth = smoothed(&points);
                    (
                        Series { name, look, faint: true, points },
                        Series { name, look, faint: false, points: smooth },
                    )
                })
                .unzip();
            let all: Vec<_> = faint.into_iter().chain(strong).collect();
            chart(&format!("{title}, smoothed over its faint values"), &all, *may_be_log)
        } else {
            let all: Vec<_> =
                lines.map(|(look, name, points)| Series { name, look, faint: false, points }).collect();
            chart(title, &all, *may_be_log)
        };
        charts.push_str(&drawn);
    }
    if charts.is_empty() {
        return charts;
    }
    let mut section = String::new();
    if runs.len() > 1 {
        let keys: Vec<_> =
            runs.iter().enumerate().map(|(i, run)| format!("<span>{}</span>", key(i, run))).collect();
        let _ = writeln!(section, "<p class=\"legend\">{}</p>", keys.join(" "));
    }
    let couplings: BTreeSet<_> =
        runs.iter().map(|run| run.setting("coupling", "kind").and_then(Value::as_str)).collect();
    if couplings.len() > 1 {
        section.push_str(
            "<p>The runs have different couplings, whose losses are not comparable: a coupled target is easier to predict.</p>\n",
        );
    }
    let _ = write!(section, "<div class=\"charts\">\n{charts}</div>\n");
    section
}

fn samples(runs: &[Run]) -> String {
    let mut figures = String::new();
    for (i, run) in runs.iter().enumerate() {
        if let Some(grid) = &run.grid {
            let [width, height] = grid.size;
            let _ = writeln!(
                figures,
                "<figure><figcaption>{}, step {step}</figcaption><img width=\"{width}\" height=\"{height}\" alt=\"Samples of {name} at \
                 step {step}\" src=\"data:image/png;base64,{png}\"></figure>",
                key(i, run),
                step = grid.step,
                name = escape(&run.name),
                png = base64(&grid.png)
            );
        }
    }
    if figures.is_empty() { figures } else { format!("<div class=\"grids\">\n{figures}</div>\n") }
}

/// A table with a column for each run; `rows` are headed by text, and their cells are HTML.
fn table(runs: &[Run], rows: Vec<(String, Vec<String>)>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut table = String::from("<div class=\"wide\"><table>\n<thead><tr><th></th>");
    for (i, run) in runs.iter().enumerate() {
        let _ = write!(table, "<th scope=\"col\">{}</th>", key(i, run));
    }
    table.push_str("</tr></thead>\n<tbody>\n");
    for (name, cells) in rows {
        let _ = write!(table, "<tr><th scope=\"row\">{}</th>", escape(&name));
        let cells: String = cells.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(table, "{cells}</tr>");
    }
    table.push_str("</tbody>\n</table></div>\n");
    table
}

fn means(runs: &[Run]) -> String {
    if runs.iter().all(|run| run.records.is_empty()) {
        return String::new();
    }
    let number =
        |value: Option<f64>, decimals| value.map_or("–".into(), |value: f64| format!("{value:.decimals$}"));
    let mut rows: Vec<_> = MEANS
        .iter()
        .map(|(name, key, decimals)| {
            let curve = CURVES.iter().find(|curve| curve.key == *key).expect("a key of metrics.jsonl");
            let means = runs.iter().map(|run| number(run.mean(|record| curve.of(record)), *decimals));
            ((*name).into(), means.collect())
        })
        .collect();
    let last = |of: fn(&Record) -> Option<f64>| {
        runs.iter().map(move |run| number(run.records.iter().rev().find_map(of), 4)).collect()
    };
    rows.push(("loss of the last line".into(), last(|record| record.loss)));
    rows.push(("loss of the last line, smoothed".into(), last(|record| record.loss_ema)));
    format!("<p>Means over all steps, but for the loss.</p>\n{}", table(runs, rows))
}

fn differences(runs: &[Run]) -> String {
    let settings: Vec<_> = runs.iter().map(Run::settings).collect();
    let keys: BTreeSet<&String> = settings.iter().flat_map(|settings| settings.keys()).collect();
    let rows = keys.into_iter().filter_map(|key| {
        let values: Vec<_> = settings.iter().map(|settings| settings.get(key)).collect();
        let differ = values.iter().any(|value| *value != values[0]);
        let cell = |value: Option<&String>| {
            value.map_or("–".into(), |value| format!("<code>{}</code>", escape(value)))
        };
        differ.then(|| (key.clone(), values.into_iter().map(cell).collect()))
    });
    table(runs, rows.collect())
}

fn configs(runs: &[Run]) -> String {
    let open = if runs.len() == 1 { " open" } else { "" };
    runs.iter()
        .enumerate()
        .map(|(i, run)| {
            format!(
                "<details{open}><summary>{}</summary><pre>{}</pre></details>\n",
                key(i, run),
                escape(&run.config.to_string())
            )
        })
        .collect()
}

/// Text as HTML, inside an attribute too.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// RFC 4648, §4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | u32::from(*three.get(i).unwrap_or(&0)));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= three.len() { DIGITS[value as usize].into() } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::COLOURS;

    /// The vectors of RFC 4648, §10.
    #[test]
    fn base64_is_that_of_the_standard() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn every_number_shown_is_one_of_the_log_and_every_colour_is_styled() {
        let keys = CHARTS.iter().map(|(_, key, _)| key).chain(MEANS.iter().map(|(_, key, _)| key));
        for key in keys {
            assert!(CURVES.iter().any(|curve| curve.key == *key), "{key}");
        }
        for colour in 0..COLOURS {
            assert!(STYLE.contains(&format!(".c{colour} ")), "{colour}");
            assert_eq!(STYLE.matches(&format!("--c{colour}:")).count(), 2, "light and dark of {colour}");
        }
    }
}
