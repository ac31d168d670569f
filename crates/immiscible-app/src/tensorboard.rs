//! Event files that TensorBoard reads.
//!
//! A file is a sequence of records: the length of the data, a check sum of that, the data, and a check sum of those
//! (`tensorflow/core/lib/io/record_writer.h`). The data of a record is an `Event`, a protocol buffer
//! (`tensorboard/compat/proto/event.proto` and `summary.proto`), of which these fields are written:
//!
//! ```text
//! Event        1 wall_time: double   2 step: int64   3 file_version: string   5 summary: Summary   7 session_log: SessionLog
//! SessionLog   1 status: enum, 1 is START
//! Summary      1 value: repeated Value
//! Value        1 tag: string   2 simple_value: float   4 image: Image
//! Image        1 height: int32   2 width: int32   3 colorspace: int32, 3 is RGB   4 encoded_image_string: bytes
//! ```

use crate::curves::CURVES;
use immiscible_train::Record;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of a run that the files go to.
pub(crate) const FOLDER: &str = "tensorboard";

/// The event file of one start of a run: it is made with its first event, and only grows.
pub(crate) struct TensorBoard {
    folder: PathBuf,
    /// The step that the run goes on from.
    after: u64,
    path: Option<PathBuf>,
    file: Option<File>,
    /// Up to here its records are whole.
    whole: u64,
}

impl TensorBoard {
    /// For a run that goes on after `step`: what earlier files of `folder` hold beyond it is declared void.
    pub(crate) fn new(folder: &Path, step: u64) -> Self {
        Self { folder: folder.into(), after: step, path: None, file: None, whole: 0 }
    }

    /// Writes every number of a line of `metrics.jsonl`.
    ///
    /// # Errors
    /// When they cannot be written. The file then ends with its last whole record, and can be tried again.
    pub(crate) fn scalars(&mut self, line: &Record) -> io::Result<()> {
        self.append(&record(&scalars(now(), line)))
    }

    /// Writes a picture, which must be a PNG file.
    ///
    /// # Errors
    /// When it cannot be read or written; likewise.
    pub(crate) fn picture(&mut self, step: u64, tag: &str, png: &Path) -> io::Result<()> {
        let (width, height) = image::image_dimensions(png).map_err(io::Error::other)?;
        self.append(&record(&picture(now(), step, tag, [width, height], &std::fs::read(png)?)))
    }

    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => self.open()?,
        };
        let first = if self.whole == 0 { start(now(), self.after) } else { Vec::new() };
        let bytes = [&first, records].concat();
        file.write_all(&bytes)?;
        self.whole += bytes.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// A new file, whose name comes after those of earlier starts, or, after a failure, the file without what is not whole.
    fn open(&mut self) -> io::Result<File> {
        std::fs::create_dir_all(&self.folder)?;
        if let Some(path) = &self.path {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            // One that somebody removed begins anew.
            self.whole = self.whole.min(file.metadata()?.len());
            file.set_len(self.whole)?;
            return Ok(file);
        }
        let seconds = now() as u64;
        // Two starts in one second are told apart.
        (0..1_000)
            .find_map(|n| {
                let path = self.folder.join(format!("events.out.tfevents.{seconds:010}.{n:03}"));
                match OpenOptions::new().create_new(true).append(true).open(&path) {
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
                    file => Some(file.inspect(|_| self.path = Some(path))),
                }
            })
            .unwrap_or_else(|| Err(ErrorKind::AlreadyExists.into()))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The version that every file begins with, and the start of a session, with which TensorBoard drops what it has read of this step
/// and later ones.
fn start(wall_time: f64, after: u64) -> Vec<u8> {
    let version = Message::default().double(1, wall_time).bytes(3, b"brain.Event:2");
    let session = Message::default().integer(1, 1);
    let session = event(wall_time, after + 1).bytes(7, &session.0);
    [record(&version), record(&session)].concat()
}

fn scalars(wall_time: f64, line: &Record) -> Message {
    let mut summary = Message::default();
    for curve in CURVES {
        if let Some(value) = curve.of(line) {
            let tag = format!("{}/{}", curve.group, curve.key);
            let value = Message::default().bytes(1, tag.as_bytes()).float(2, value as f32);
            summary = summary.bytes(1, &value.0);
        }
    }
    event(wall_time, line.step).bytes(5, &summary.0)
}

fn picture(wall_time: f64, step: u64, tag: &str, [width, height]: [u32; 2], png: &[u8]) -> Message {
    const RGB: u64 = 3;
    let image = Message::default().integer(1, height.into()).integer(2, width.into()).integer(3, RGB);
    let value = Message::default().bytes(1, tag.as_bytes()).bytes(4, &image.bytes(4, png).0);
    event(wall_time, step).bytes(5, &Message::default().bytes(1, &value.0).0)
}

fn event(wall_time: f64, step: u64) -> Message {
    Message::default().double(1, wall_time).integer(2, step)
}

/// A protocol buffer: fields with their numbers, one after the other.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn integer(mut self, field: u8, value: u64) -> Self {
        self.0.push(field << 3);
        self.varint(value);
        self
    }

    fn double(mut self, field: u8, value: f64) -> Self {
        self.0.push(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u8, value: f32) -> Self {
        self.0.push(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u8, value: &[u8]) -> Self {
        self.0.push(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

fn record(event: &Message) -> Vec<u8> {
    let data = &event.0;
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc32c(&length), data, &masked_crc32c(data)].concat()
}

/// Masked, as TensorFlow does where data may hold check sums of their own.
fn masked_crc32c(bytes: &[u8]) -> [u8; 4] {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// The cyclic redundancy check of Castagnoli's polynomial (RFC 3720, appendix B.4), a byte at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED: u32 = 0x82f6_3b78;
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut crc, mut bit) = (byte as u32, 0);
            while bit < 8 {
                crc = crc >> 1 ^ if crc & 1 == 1 { REVERSED } else { 0 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| TABLE[(crc as u8 ^ byte) as usize] ^ crc >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 3720, appendix B.4.
    #[test]
    fn check_sums_are_those_of_the_standard() {
        let rising: Vec<u8> = (0..32).collect();
        for (bytes, sum) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (b"123456789", 0xe306_9283),
        ] {
            assert_eq!(crc32c(bytes), sum, "{bytes:?}");
        }
    }

    fn line() -> Record {
        let line = r#"{"schema": 1, "step": 250, "loss": 0.5, "loss_ema": 0.75, "gradient_norm": 1.25, "learning_rate": 0.001,
            "images_per_second": 420.5, "step_ms": 300.0, "coupling_ms": 0.25, "coupling_visible_ms": 0.0625,
            "coupling_hidden_ms": 0.1875, "waited_ms": 0.5, "coupling_share_percent": 0.125, "distance_before": 12.0,
            "distance_after": 11.0, "distance_drop_percent": 9.125, "coefficient": 0.375, "energy": 1.0, "alignment": 3.5,
            "mean_shift": 1.0625}"#;
        serde_json::from_str(line).unwrap()
    }

    /// The golden is what the Python package TensorBoard makes of the same events, and reads back.
    #[test]
    fn a_file_is_what_tensorboard_writes_itself() {
        let png = include_bytes!("../tests/golden/pixel.png");
        let ours = [
            start(1_700_000_000.25, 200),
            record(&scalars(1_700_000_001.5, &line())),
            record(&picture(1_700_000_002.0, 250, "samples", [2, 3], png)),
        ]
        .concat();
        let golden = include_bytes!("../tests/golden/tensorboard.tfevents");
        assert!(ours == golden, "{} and {} bytes, or others", ours.len(), golden.len());
    }

    /// The lengths of a file's records, if it is whole.
    fn lengths(path: &Path) -> Vec<usize> {
        let (bytes, mut at, mut lengths) = (std::fs::read(path).unwrap(), 0, Vec::new());
        while at < bytes.len() {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            let data = &bytes[at + 12..at + 12 + length];
            assert_eq!(bytes[at + 12 + length..][..4], masked_crc32c(data));
            lengths.push(length);
            at += 16 + length;
        }
        lengths
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn every_start_has_a_file_of_its_own_that_comes_after_those_before() {
        let folder = tempfile::tempdir().unwrap();
        for start in 0..3 {
            let mut board = TensorBoard::new(folder.path(), 100 * start);
            board.scalars(&line()).unwrap();
            board.scalars(&line()).unwrap();
            let files = files(folder.path());
            assert_eq!(files.len() as u64, start + 1);
            assert_eq!(files.last(), board.path.as_ref());
            assert_eq!(lengths(files.last().unwrap()).len(), 4);
        }
    }

    #[test]
    fn what_fails_is_tried_again_behind_the_last_whole_record() {
        let folder = tempfile::tempdir().unwrap();
        let blocked = folder.path().join("tensorboard");
        std::fs::write(&blocked, "in the way").unwrap();
        let mut board = TensorBoard::new(&blocked, 0);
        assert!(board.scalars(&line()).is_err());
        std::fs::remove_file(&blocked).unwrap();
        board.scalars(&line()).unwrap();
        let path = files(&blocked).pop().unwrap();
        // As a full disk leaves it: half a record, and then no more is taken.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"half").unwrap();
        board.file = None;
        board.scalars(&line()).unwrap();
        assert_eq!(lengths(&path).len(), 4);
        // Somebody removes the file, and what comes next is a file again.
        std::fs::remove_file(&path).unwrap();
        board.file = None;
        board.scalars(&line()).unwrap();
        assert_eq!(lengths(&path).len(), 3);
        assert!(board.picture(1, "samples", &folder.path().join("absent.png")).is_err());
        assert_eq!(lengths(&path).len(), 3);
    }
}
