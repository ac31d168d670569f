//! Checkpoints survive whatever happens to their files.

use immiscible_train::{Checkpoint, CheckpointStore, Saved, TrainError};
use std::fs;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;

#[path = "checkpoints/simulated.rs"]
mod simulated;

use simulated::{Chance, Plan, Simulated};

const CONFIG: &str = "c0ffee";
const FOLDER: &str = "runs/r/checkpoints";

fn save(store: &CheckpointStore, step: u64) -> Result<Saved, TrainError> {
    store.save(step, CONFIG, 2, |files| {
        let weights: Vec<u8> = (0..200).map(|i| (step * 7 + i) as u8).collect();
        files.write("model.safetensors", &weights)?;
        files.write("optim.bpk", &weights[..50])?;
        files.write("state.json", format!("{{\"step\":{step}}}").as_bytes())
    })
}

fn on(files: &Arc<Simulated>) -> CheckpointStore {
    CheckpointStore::on(files.clone(), FOLDER)
}

/// The newest step. Where none is intact there is nothing to pass over either, so that a run begins by itself.
fn newest(files: &Arc<Simulated>) -> Option<u64> {
    let (newest, skipped) = on(files).newest().unwrap();
    assert!(newest.is_some() || skipped.is_empty(), "{skipped:?}");
    newest.map(|checkpoint| checkpoint.step)
}

fn intact(files: &Arc<Simulated>) -> Vec<u64> {
    let found = on(files).check().unwrap();
    found.into_iter().flatten().map(|Checkpoint { step, .. }| step).collect()
}

/// Files before a save, and the step that is then saved.
fn situations() -> Vec<(&'static str, Simulated, u64)> {
    let after = |steps: &[u64]| {
        let files = Arc::new(Simulated::new());
        for step in steps {
            save(&on(&files), *step).unwrap();
        }
        files
    };
    let file = |name: &str| Path::new(FOLDER).join(name);
    let damaged = after(&[10, 20, 30]);
    damaged.damage(&file("step-00000030/optim.bpk"));
    let stale = after(&[10, 20]);
    let half = Arc::new(stale.with(Plan::Crash(10)));
    assert!(save(&on(&half), 25).is_err());
    vec![
        ("the first", Simulated::new(), 10),
        ("the second", after(&[10]).killed(), 20),
        ("one that displaces another", after(&[10, 20]).killed(), 30),
        ("in the place of a damaged one", damaged.killed(), 30),
        ("again", after(&[10, 20]).killed(), 20),
        ("beside half a one", half.killed(), 30),
    ]
}

/// The run goes on by itself: the next save is there, nothing half-written is left, and two are intact.
fn goes_on(files: &Arc<Simulated>, step: u64, what: &str) {
    let saved = save(&on(files), step).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(saved.untidy.is_none(), "{what}: {:?}", saved.untidy);
    assert_eq!(newest(files), Some(step), "{what}");
    let names = immiscible_train::FileSystem::list(&**files, Path::new(FOLDER)).unwrap();
    assert!(!names.iter().any(|name| name.starts_with(".tmp")), "{what}: {names:?}");
}

#[test]
fn a_failure_of_any_operation_leaves_the_old_checkpoint_or_the_new_one() {
    for (situation, before, step) in situations() {
        let untouched = Arc::new(before.killed());
        let (old, enough) = (newest(&untouched), intact(&untouched).len());
        for at in 0.. {
            let what = format!("{situation}, operation {at}");
            let files = Arc::new(before.with(Plan::Fail(at)));
            let saved = save(&on(&files), step);
            let reached = files.operations() > at;
            let after = Arc::new(files.killed());
            match &saved {
                Ok(_) => assert_eq!(newest(&after), Some(step), "{what}"),
                Err(_) => assert!([old, Some(step)].contains(&newest(&after)), "{what}"),
            }
            assert!(intact(&after).len() >= enough.min(2), "{what}: {:?}", intact(&after));
            // At the same step, as at the end of training, and at a later one.
            goes_on(&Arc::new(after.killed()), step, &what);
            goes_on(&after, step + 1, &what);
            if !reached {
                assert!(saved.is_ok(), "{what}");
                break;
            }
        }
    }
}

#[test]
fn a_crash_at_any_operation_leaves_the_old_checkpoint_or_the_new_one() {
    let mut schedules = 0;
    for (situation, before, step) in situations() {
        let untouched = Arc::new(before.killed());
        let (old, enough) = (newest(&untouched), intact(&untouched).len());
        for at in 0.. {
            let files = Arc::new(before.with(Plan::Crash(at)));
            let saved = save(&on(&files), step);
            let reached = files.operations() > at;
            // The process alone, and the machine with it.
            for seed in 0..64 {
                schedules += 1;
                let what = format!("{situation}, operation {at}, seed {seed}");
                let after = Arc::new(if seed == 0 { files.killed() } else { files.power_lost(seed) });
                match &saved {
                    Ok(_) => assert_eq!(newest(&after), Some(step), "{what}"),
                    Err(_) => assert!([old, Some(step)].contains(&newest(&after)), "{what}"),
                }
                assert!(intact(&after).len() >= enough.min(2), "{what}: {:?}", intact(&after));
                goes_on(&after, step + 1, &what);
            }
            if !reached {
                assert!(saved.is_ok(), "{situation}");
                break;
            }
        }
    }
    println!("crash schedules: {schedules}");
    assert!(schedules >= 10_000, "{schedules}");
}

/// Two intact checkpoints on this machine's disk, of which the newer is to be damaged.
fn two(folder: &Path) -> CheckpointStore {
    let store = CheckpointStore::new(folder);
    save(&store, 10).unwrap();
    save(&store, 20).unwrap();
    store
}

fn refused(store: &CheckpointStore, what: &str) -> String {
    let (newest, skipped) = store.newest().unwrap();
    assert_eq!(newest.map(|checkpoint| checkpoint.step), Some(10), "{what} is not detected");
    assert_eq!(skipped.len(), 1, "{what}");
    let reason = skipped[0].to_string();
    assert!(reason.contains("step-00000020") && !reason.contains('\n'), "{what}: {reason}");
    reason
}

#[test]
fn every_flipped_bit_and_every_truncation_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let store = two(folder.path());
    let mut chance = Chance(7);
    let mut damages = 0;
    for name in ["manifest.json", "model.safetensors", "optim.bpk", "state.json"] {
        let path = folder.path().join("step-00000020").join(name);
        let bytes = fs::read(&path).unwrap();
        // In place: some file systems flush a file that is truncated to be written anew.
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut write = |bytes: &[u8]| {
            file.rewind().and_then(|()| file.write_all(bytes)).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        };
        let mut try_with = |damaged: &[u8], what: String| {
            write(damaged);
            refused(&store, &what);
            damages += 1;
        };
        // Every bit of the manifest, and some of the rest.
        let every = if name == "manifest.json" { 1 } else { 2 };
        for bit in (0..8 * bytes.len()).step_by(every) {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            try_with(&damaged, format!("bit {bit} of {name}"));
        }
        for length in 0..bytes.len() {
            try_with(&bytes[..length], format!("{length} bytes of {name}"));
        }
        for _ in 0..200 {
            let mut damaged = bytes.clone();
            for _ in 0..=chance.below(8) {
                damaged[chance.below(bytes.len())] = chance.below(256) as u8;
            }
            if damaged != bytes {
                try_with(&damaged, format!("random bytes of {name}"));
            }
        }
        try_with(&[&bytes[..], b" "].concat(), format!("a byte more in {name}"));
        write(&bytes);
        assert_eq!(store.newest().unwrap().0.unwrap().step, 20);
    }
    println!("damaged checkpoints detected: {damages}");
    assert!(damages > 6_000, "{damages}");
}

#[test]
fn what_is_no_checkpoint_is_passed_over_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = two(folder.path());
    let newer = folder.path().join("step-00000020");
    let manifest = fs::read_to_string(newer.join("manifest.json")).unwrap();
    let weights = fs::read(newer.join("model.safetensors")).unwrap();

    // A manifest that somebody wrote, as far as it can be told from one of this crate.
    let forged = |name: &str| {
        let text = manifest.replace("model.safetensors", name);
        // Format 1 had no hash of itself.
        let (head, _) = text.split_once(",\n  \"sha256\"").unwrap_or_else(|| panic!("{text}"));
        format!("{head}\n}}\n").replace("\"format\": 2", "\"format\": 1")
    };
    fs::write(newer.join("manifest.json"), forged("model.safetensors")).unwrap();
    assert_eq!(store.newest().unwrap().0.unwrap().step, 20, "format 1 is read");
    fs::write(folder.path().join("outside"), &weights).unwrap();
    let absolute = folder.path().join("outside").display().to_string();
    for name in ["../outside", &absolute, "optim.bpk", "manifest.json", ".", "..", "", "a/b", "..\\\\outside"]
    {
        fs::write(newer.join("manifest.json"), forged(name)).unwrap();
        let reason = refused(&store, name);
        assert!(reason.contains("manifest.json names"), "{name}: {reason}");
    }
    for (text, word) in [
        (String::new(), "cannot be read"),
        ("{}".into(), "cannot be read"),
        ("[".repeat(100_000), "cannot be read"),
        ("{\"format\": 1, \"step\": 20}".into(), "cannot be read"),
        (forged("model.safetensors").replace("\"step\"", "\"st\\nep\""), "cannot be read"),
        (" ".repeat(1 << 21), "cannot be read"),
        (manifest.replace("\"format\": 2", "\"format\": 3"), "format 3"),
        (manifest.replace("\"step\": 20", "\"step\": 21"), "not as it was written"),
        (forged("model.safetensors").replace("\"step\": 20", "\"step\": 21"), "of step 21"),
        (forged("model.safetensors").replace(": 200", ": 18446744073709551615"), "model.safetensors"),
    ] {
        fs::write(newer.join("manifest.json"), &text).unwrap();
        let reason = refused(&store, word);
        assert!(reason.contains(word), "{word}: {reason}");
    }

    // A folder where a file should be, and nothing.
    fs::write(newer.join("manifest.json"), &manifest).unwrap();
    for name in ["model.safetensors", "manifest.json"] {
        let bytes = fs::read(newer.join(name)).unwrap();
        fs::remove_file(newer.join(name)).unwrap();
        let reason = refused(&store, "nothing");
        assert!(reason.contains(name) && reason.contains("missing"), "{reason}");
        fs::create_dir(newer.join(name)).unwrap();
        assert!(refused(&store, "a folder").contains(name));
        fs::remove_dir(newer.join(name)).unwrap();
        fs::write(newer.join(name), bytes).unwrap();
    }

    // What else lies about is nobody's business.
    fs::write(newer.join(".DS_Store"), "?").unwrap();
    fs::write(folder.path().join("step-notes"), "?").unwrap();
    fs::create_dir(folder.path().join("step-99")).unwrap();
    let (found, skipped) = store.newest().unwrap();
    assert_eq!((found.unwrap().step, skipped.len()), (20, 0));

    // A file in the place of a checkpoint is one that is damaged, and the next save takes its place.
    fs::write(folder.path().join("step-00000030"), "?").unwrap();
    let (found, skipped) = store.newest().unwrap();
    assert_eq!((found.unwrap().step, skipped.len()), (20, 1));
    assert!(save(&store, 30).unwrap().untidy.is_none());
    assert_eq!(store.newest().unwrap().0.unwrap().step, 30);
}

#[test]
fn the_newest_intact_ones_stay_and_the_newest_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::new(folder.path().join("checkpoints"));
    assert_eq!(store.newest().unwrap().0, None);
    let steps = || -> Vec<u64> {
        let found = store.check().unwrap();
        found.into_iter().map(|found| found.map_or(0, |checkpoint| checkpoint.step)).collect()
    };
    for step in [10, 20, 30] {
        assert_eq!(save(&store, step).unwrap().checkpoint.step, step);
    }
    assert_eq!(steps(), [30, 20]);
    let latest = fs::read_to_string(folder.path().join("checkpoints/latest")).unwrap();
    assert_eq!(latest, "step-00000030");
    // A damaged checkpoint does not count among those that are kept.
    let damaged = folder.path().join("checkpoints/step-00000030/optim.bpk");
    fs::write(&damaged, "flipped!").unwrap();
    save(&store, 40).unwrap();
    assert_eq!(steps(), [40, 0, 20]);
    save(&store, 50).unwrap();
    assert_eq!(steps(), [50, 40]);
}

#[test]
fn an_intact_checkpoint_is_not_written_again_nor_by_another_config() {
    let folder = tempfile::tempdir().unwrap();
    let store = two(folder.path());
    let again = store.save(20, CONFIG, 2, |_| panic!("it is there")).unwrap();
    assert_eq!(again.checkpoint.step, 20);
    let error = store.save(20, "decaf", 2, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("another config"), "{error}");
    assert_eq!(store.newest().unwrap().0.unwrap().config_sha256, CONFIG);
}
