//! Numbers for readers.

/// Three digits that count, at most three after the point.
pub(crate) fn ms(value: f64) -> String {
    match value {
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => thousands(value.round() as usize),
    }
}

pub(crate) fn significant(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.1}") } else { thousands(ratio.round() as usize) }
}

pub(crate) fn gap(percent: f64) -> String {
    match percent.abs() {
        0.0 => "0".into(),
        ..0.001 => format!("{percent:.0e}"),
        ..10.0 => format!("{percent:.3}"),
        _ => format!("{percent:.1}"),
    }
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// 8192 as 8,192.
pub(crate) fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_readers() {
        assert_eq!([0.0421, 2.618, 48.72, 19_567.4].map(ms), ["0.042", "2.62", "48.7", "19,567"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0.0, 2e-7, 0.0123, 12.06].map(gap), ["0", "2e-7", "0.012", "12.1"]);
    }
}
