//! JPEG files. `image` has the same decoder, but reads the header anew for every question and copies the file, which takes
//! half as long as decoding a small image.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::image_file::{MAX_DECODED, MAX_SIDE, turned};

/// What every JPEG file begins with.
pub(crate) const START: [u8; 2] = [0xff, 0xd8];

/// Width and height of the upright image.
pub(crate) fn size(bytes: &[u8]) -> Result<(u32, u32), String> {
    let header = Header::read(bytes)?;
    Ok(turned((header.width, header.height), header.orientation))
}

/// The upright image; grey becomes three equal channels. If it lies in the file as it is, with the size `wanted`, it is written to
/// `out`, and not returned.
pub(crate) fn decode_to(
    bytes: &[u8],
    wanted: (u32, u32),
    out: &mut [u8],
) -> Result<Option<RgbImage>, String> {
    if is_cut(bytes) {
        return Err("the JPEG data ends too early".into());
    }
    let Header { mut decoder, width, height, orientation } = Header::read(bytes)?;
    let mut decode = |out: &mut [u8]| decoder.decode_into(out).map_err(|error| error.to_string());
    let len = 3 * width as usize * height as usize;
    if ((width, height), out.len(), orientation) == (wanted, len, Orientation::NoTransforms) {
        // Of a damaged scan the decoder may leave out a part.
        out.fill(0);
        return decode(out).map(|()| None);
    }
    let mut pixels = vec![0; len];
    decode(&mut pixels)?;
    let mut image =
        DynamicImage::from(RgbImage::from_raw(width, height, pixels).expect("made for this size"));
    image.apply_orientation(orientation);
    Ok(Some(image.into_rgb8()))
}

/// A decoder behind the header, and what that says.
struct Header<'a> {
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    width: u32,
    height: u32,
    orientation: Orientation,
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let side = MAX_SIDE as usize;
        let options =
            DecoderOptions::default().set_strict_mode(false).set_max_width(side).set_max_height(side);
        let options = options.jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(|error| error.to_string())?;
        let (width, height) = decoder.dimensions().ok_or("it has no header")?;
        if 3 * width as u64 * height as u64 > MAX_DECODED {
            return Err(format!("{width}×{height} pixels exceed the limit of {MAX_DECODED} bytes"));
        }
        let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Ok(Self { decoder, width: width as u32, height: height as u32, orientation })
    }
}

/// Whether the last scan has no end-of-image marker behind it. The decoder would fill in grey. Within a scan neither marker can
/// occur, because there every byte ff has a 00 behind it (ITU-T T.81, B.1.1.5).
fn is_cut(bytes: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    // Looked for from the end, where a whole file has it.
    let end = bytes.windows(2).rposition(|pair| pair == END_OF_IMAGE);
    bytes[end.unwrap_or(0)..].windows(2).any(|pair| pair == START_OF_SCAN)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgb};

    use super::*;

    /// By both ways.
    fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
        let image = decode_to(bytes, (0, 0), &mut [])?.expect("it has pixels");
        let (width, height) = image.dimensions();
        let mut out = vec![7; image.as_raw().len()];
        match decode_to(bytes, (width, height), &mut out)? {
            None => assert!(out == *image.as_raw()),
            Some(turned) => assert!(turned == image),
        }
        Ok(image)
    }

    fn encoded(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn pixels_are_those_that_the_image_crate_decodes() {
        for (width, height) in [(1, 1), (7, 5), (8, 8), (32, 32), (33, 70)] {
            let image = RgbImage::from_fn(width, height, |x, y| {
                Rgb([(x * 7 + y) as u8, (y * 11) as u8, (x * y % 251) as u8])
            });
            let grey = image::imageops::grayscale(&image);
            for bytes in [encoded(image), encoded(grey)] {
                let expected = image::load_from_memory(&bytes).unwrap().into_rgb8();
                assert!(decode(&bytes).unwrap() == expected, "{width}×{height}");
                assert_eq!(size(&bytes).unwrap(), (width, height));
            }
        }
    }

    #[test]
    fn an_image_is_turned_as_its_exif_says_wherever_that_stands() {
        // A TIFF of one entry, little-endian: orientation (0x112), one short, 6: a quarter turn to the right.
        let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let exif = [b"\xff\xe1\x00\x22Exif\0\0", &tiff[..]].concat();
        let plain = encoded(RgbImage::from_fn(16, 8, |x, _| Rgb([if x < 8 { 250 } else { 5 }; 3])));
        let upright = decode(&plain).unwrap();
        assert_eq!((upright.dimensions(), upright.get_pixel(0, 7).0[0] > 200), ((16, 8), true));

        // Behind the file's start, and behind a comment that looks like the start of the scan.
        let comment = [0xff, 0xfe, 0, 6, 0xff, 0xda, 0xff, 0xd9];
        for before in [&[][..], &comment] {
            let bytes = [&plain[..2], before, &exif, &plain[2..]].concat();
            let turned = decode(&bytes).unwrap();
            assert_eq!((turned.dimensions(), turned.get_pixel(0, 15).0[0] < 50), ((8, 16), true));
            assert_eq!(size(&bytes).unwrap(), (8, 16));
        }
        assert!(decode(&plain[..plain.len() / 8]).is_err());
    }

    #[test]
    fn what_a_damaged_scan_leaves_out_does_not_depend_on_what_was_there() {
        let whole = encoded(RgbImage::from_fn(64, 64, |x, y| Rgb([(x * y) as u8, x as u8, y as u8])));
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap() + 14;
        let mut decoded = 0;
        for at in (scan..whole.len() - 4).step_by(7) {
            for marker in [0xfe, 0xc4, 0xda, 0xd0, 0xe1] {
                let mut bytes = whole.clone();
                bytes[at..at + 2].copy_from_slice(&[0xff, marker]);
                let [first, second] = [7, 9].map(|before| {
                    let mut out = vec![before; 3 * 64 * 64];
                    decode_to(&bytes, (64, 64), &mut out).map(|image| (image.is_none(), out))
                });
                if let Ok((true, _)) = first {
                    assert!(first == second, "{marker:x} at {at}");
                    decoded += 1;
                }
            }
        }
        assert!(decoded > 20, "{decoded}");
    }

    #[test]
    fn a_file_is_cut_unless_its_last_scan_has_an_end() {
        let whole = encoded(RgbImage::from_fn(16, 16, |x, y| Rgb([(x * y) as u8; 3])));
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        assert!(!is_cut(&whole) && !is_cut(&[&whole[..], b"\0\0\0"].concat()));
        for len in scan + 2..whole.len() {
            assert!(is_cut(&whole[..len]), "{len} of {}", whole.len());
        }
        assert!(is_cut(&[&whole[..], &whole[..whole.len() - 1]].concat()), "an image inside is no end");
    }
}
