use super::report::Line;
use super::subject::{Chance, Subject};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};

/// Bits flipped and ends cut off, in every file of the newest checkpoint in turn.
pub(super) fn run(subject: &Subject, damages: u64) -> Result<Vec<Line>, String> {
    let mut chance = Chance::new(subject.seed, 3);
    let checkpoint = subject.runs().join(format!("whole/checkpoints/step-{:08}", super::subject::STEPS));
    let mut files = Vec::new();
    for entry in fs::read_dir(&checkpoint).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        let bytes = fs::read(&path).map_err(|error| error.to_string())?;
        let file = OpenOptions::new().write(true).open(&path).map_err(|error| error.to_string())?;
        files.push((path, file, bytes));
    }
    files.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    let (mut undetected, mut panics, mut flips) = (0, 0, 0);
    let mut notes = Vec::new();
    for number in 0..damages {
        let count = files.len() as u64;
        let (path, file, bytes) = &mut files[(number % count) as usize];
        let mut damaged = bytes.clone();
        // Every fourth is cut.
        let what = if number / count % 4 == 3 {
            damaged.truncate(chance.below(bytes.len() as u64) as usize);
            format!("{} cut to {}", path.display(), damaged.len())
        } else {
            flips += 1;
            let bit = chance.below(8 * bytes.len() as u64);
            damaged[(bit / 8) as usize] ^= 1 << (bit % 8);
            format!("bit {bit} of {}", path.display())
        };
        write(file, &damaged)?;
        let found = subject.command(&["checkpoint", "verify", "runs/whole"]).output();
        write(file, bytes)?;
        let found = found.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        let complained = String::from_utf8_lossy(&found.stderr).into_owned();
        let older = said.lines().nth(1).is_some_and(|line| line.ends_with("intact"));
        if found.status.code() != Some(1) || !said.starts_with("damaged") || !older {
            undetected += 1;
            notes.push(what.clone());
        }
        if complained.contains("panicked") || found.status.code().is_none() {
            panics += 1;
            notes.push(what);
        }
        if (number + 1) % 1_000 == 0 {
            println!("  {} damages", number + 1);
        }
    }
    let cut = damages - flips;
    Ok(vec![
        Line::count(format!("of {flips} flipped bits and {cut} truncations not detected"), undetected, 0)
            .with(notes.join("; ")),
        Line::count("panics on a damaged checkpoint".into(), panics, 0),
    ])
}

/// In place, so that nothing is flushed.
fn write(file: &mut File, bytes: &[u8]) -> Result<(), String> {
    let written =
        file.rewind().and_then(|()| file.write_all(bytes)).and_then(|()| file.set_len(bytes.len() as u64));
    written.map_err(|error| error.to_string())
}
