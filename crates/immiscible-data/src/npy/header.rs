//! The header of a `.npy` file: a Python dictionary of three entries, written as text.

use std::io::{self, Read, Write};
use std::path::Path;

use super::{fill, format_error};
use crate::DataError;

const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read. NumPy has the same limit; the header of a plain array takes 118 bytes.
const MAX_LEN: usize = 10_000;

/// NumPy lets the values begin at a multiple of this.
const ALIGN: usize = 64;

#[derive(Debug, PartialEq)]
pub(crate) struct Header {
    /// NumPy's name of the type, such as `<f4`: byte order, kind, bytes.
    descr: String,
    /// Whether the first axis is the fastest.
    pub(crate) fortran_order: bool,
    pub(crate) shape: Vec<usize>,
}

impl Header {
    /// Reads all that comes before the values.
    pub(crate) fn read(reader: &mut impl Read, path: &Path) -> Result<Self, DataError> {
        let start: [u8; 8] = read(reader, path)?;
        let [.., major, _] = start;
        if !start.starts_with(MAGIC) {
            return Err(format_error(path, "is no npy file: it does not start with \\x93NUMPY"));
        }
        let len = match major {
            1 => u16::from_le_bytes(read(reader, path)?).into(),
            2 | 3 => u32::from_le_bytes(read(reader, path)?) as usize,
            _ => return Err(format_error(path, format!("has the npy version {major}; 1 to 3 are known"))),
        };
        if len > MAX_LEN {
            let reason = format!("claims to have a header of {len} bytes; at most {MAX_LEN} are read");
            return Err(format_error(path, reason));
        }
        let mut text = vec![0; len];
        if fill(reader, &mut text).map_err(|source| DataError::Io { path: path.into(), source })? < len {
            return Err(format_error(path, "ends inside its header"));
        }
        Self::parse(&String::from_utf8_lossy(&text), path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, DataError> {
        let mut cursor = Cursor(text);
        match cursor.dictionary() {
            Some((Some(descr), Some(fortran_order), Some(shape))) => {
                Ok(Self { descr: descr.into(), fortran_order, shape })
            }
            Some(_) => {
                Err(format_error(path, "has a header without one of 'descr', 'fortran_order' and 'shape'"))
            }
            None => {
                let rest: String = cursor.0.trim().chars().take(40).collect();
                Err(format_error(path, format!("has a header that cannot be understood from {rest:?} on")))
            }
        }
    }

    /// The type without its byte order, such as `f4`; empty if it has none.
    pub(crate) fn code(&self) -> &str {
        match self.descr.split_at_checked(1) {
            Some(("<" | ">", code)) => code,
            Some(("|", code @ ("b1" | "i1" | "u1"))) => code,
            _ => "",
        }
    }

    pub(crate) fn big_endian(&self) -> bool {
        self.descr.starts_with('>')
    }

    /// The number of values, if that many of `size` bytes can be in memory at all.
    pub(crate) fn count(&self, path: &Path, size: usize) -> Result<usize, DataError> {
        // A length of 0 must not hide that the others overflow.
        let capacity = self.shape.iter().try_fold(size, |bytes, &n| bytes.checked_mul(n.max(1)));
        match capacity {
            Some(bytes) if bytes <= isize::MAX as usize => Ok(self.shape.iter().product()),
            _ => {
                let reason = format!("claims to have the shape {:?}, which fits in no memory", self.shape);
                Err(format_error(path, reason))
            }
        }
    }

    /// Where the value at `position` of the file is in the array.
    pub(crate) fn index(&self, position: usize) -> Vec<usize> {
        let axes = 0..self.shape.len();
        let fastest_first: Vec<usize> =
            if self.fortran_order { axes.collect() } else { axes.rev().collect() };
        let mut index = vec![0; self.shape.len()];
        let mut rest = position;
        for axis in fastest_first {
            index[axis] = rest % self.shape[axis];
            rest /= self.shape[axis];
        }
        index
    }

    pub(crate) fn type_error(&self, path: &Path, wanted: &'static str) -> DataError {
        DataError::NpyType { path: path.into(), found: self.descr.chars().take(40).collect(), wanted }
    }
}

/// Writes all that comes before the values, which follow in C order.
pub(crate) fn write(writer: &mut impl Write, descr: &str, shape: &[usize]) -> io::Result<()> {
    let axes = match shape {
        [n] => format!("{n},"),
        _ => shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({axes}), }}");
    let before = MAGIC.len() + 2 + size_of::<u16>();
    let padded = (before + text.len() + 1).next_multiple_of(ALIGN) - before;
    let len = u16::try_from(padded).map_err(io::Error::other)?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&len.to_le_bytes())?;
    writeln!(writer, "{text:<width$}", width = padded - 1)
}

fn read<const N: usize>(reader: &mut impl Read, path: &Path) -> Result<[u8; N], DataError> {
    let mut bytes = [0; N];
    match fill(reader, &mut bytes) {
        Ok(found) if found == N => Ok(bytes),
        Ok(_) => Err(format_error(path, "is too short for an npy file")),
        Err(source) => Err(DataError::Io { path: path.into(), source }),
    }
}

/// What is left of the text. Each function takes away what it returns, or stops where it did not understand.
struct Cursor<'a>(&'a str);

/// `descr`, `fortran_order` and `shape`.
type Entries<'a> = (Option<&'a str>, Option<bool>, Option<Vec<usize>>);

impl<'a> Cursor<'a> {
    fn dictionary(&mut self) -> Option<Entries<'a>> {
        let mut entries = Entries::default();
        self.expect("{")?;
        while self.expect("}").is_none() {
            let key = self.string()?;
            self.expect(":")?;
            let (descr, fortran_order, shape) = &mut entries;
            match key {
                "descr" if descr.is_none() => *descr = Some(self.descr()?),
                "fortran_order" if fortran_order.is_none() => *fortran_order = Some(self.boolean()?),
                "shape" if shape.is_none() => *shape = Some(self.tuple()?),
                _ => return None,
            }
            if self.expect(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.0.trim().is_empty().then_some(entries)
    }

    /// A name, or the list that describes a record.
    fn descr(&mut self) -> Option<&'a str> {
        let list = self.0.trim_start();
        if !list.starts_with('[') {
            return self.string();
        }
        let mut depth = 0;
        let end = list.find(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0
        })?;
        let (list, rest) = list.split_at(end + 1);
        self.0 = rest;
        Some(list)
    }

    fn expect(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = ["'", "\""].into_iter().find(|quote| self.expect(quote).is_some())?;
        let (text, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        Some(text)
    }

    fn boolean(&mut self) -> Option<bool> {
        self.expect("True").map(|()| true).or_else(|| self.expect("False").map(|()| false))
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        let mut numbers = Vec::new();
        self.expect("(")?;
        while self.expect(")").is_none() {
            let text = self.0.trim_start();
            let (digits, rest) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
            numbers.push(digits.parse().ok()?);
            self.0 = rest;
            if self.expect(",").is_none() {
                // Without a comma, one number in brackets is a number.
                self.expect(")").filter(|()| numbers.len() > 1)?;
                break;
            }
        }
        Some(numbers)
    }
}
