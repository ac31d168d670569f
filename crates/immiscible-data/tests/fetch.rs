//! Downloads from a server on the loopback address that is slow, broken or wrong in every way that servers are.
#![cfg(feature = "fetch")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use immiscible_data::{DataError, Patience, REMOTES, Remote, RemoteFile, SOURCES, fetch};
use sha2::{Digest, Sha256};

/// How a server treats one connection.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    /// As it should, parts included.
    Good,
    /// Sends files whole only.
    NoParts,
    /// Closes the connection after so many bytes of the body.
    CutAfter(usize),
    /// Sends so many bytes and then nothing, without closing.
    StallAfter(usize),
    /// In pieces of so many bytes with a pause behind each.
    Slow(usize),
    /// This status and a page that says so.
    Status(u16),
    /// Another part than the one asked for.
    WrongPart,
    /// The right length with other bytes.
    WrongBytes,
    /// More than was promised, without a length.
    TooMuch,
    /// Closes the connection at once.
    Silent,
    /// Sends the client to the same file elsewhere.
    Moved,
}

/// A server that treats connection i as `manners[i]`, and all others as the last of them.
struct Server {
    base: String,
    /// The request lines and ranges that came.
    requests: Arc<Mutex<Vec<String>>>,
}

fn serve(content: Vec<u8>, manners: &[Manner]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/set", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (manners, log) = (manners.to_vec(), requests.clone());
    // Ends with the process; every test makes a bounded number of requests.
    thread::spawn(move || {
        for (number, stream) in listener.incoming().take(64).enumerate() {
            let manner = manners[number.min(manners.len() - 1)];
            let (content, log) = (content.clone(), log.clone());
            thread::spawn(move || answer(stream.unwrap(), &content, manner, &log));
        }
    });
    Server { base, requests }
}

fn answer(stream: TcpStream, content: &[u8], manner: Manner, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let mut from = 0;
    let mut range = String::new();
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
            range = format!(" {value}");
            from = value.trim_end_matches('-').parse().unwrap();
        }
    }
    log.lock().unwrap().push(format!("{request}{range}"));
    let mut stream = stream;
    let mut head = |status: &str, more: &str| {
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n").ok()
    };
    if manner == Manner::NoParts {
        from = 0;
    }
    let body = &content[from.min(content.len())..];
    let length = format!("Content-Length: {}\r\n", body.len());
    match manner {
        Manner::Silent => return None,
        Manner::Status(status) => {
            head(&format!("{status} No"), "Content-Length: 7\r\n")?;
            return stream.write_all(b"<html/>").ok();
        }
        Manner::Moved if !request.contains("/elsewhere/") => {
            let name = request.split(' ').nth(1)?.rsplit('/').next()?.to_owned();
            return head("302 Found", &format!("Location: /elsewhere/{name}\r\nContent-Length: 0\r\n"));
        }
        Manner::TooMuch => head("200 OK", "")?,
        _ if from > 0 => {
            let start = if manner == Manner::WrongPart { 0 } else { from };
            let (last, all) = (content.len() - 1, content.len());
            head("206 Partial Content", &format!("Content-Range: bytes {start}-{last}/{all}\r\n{length}"))?;
        }
        _ => head("200 OK", &length)?,
    }
    match manner {
        Manner::CutAfter(bytes) => stream.write_all(&body[..bytes.min(body.len())]).ok(),
        Manner::StallAfter(bytes) => {
            stream.write_all(&body[..bytes.min(body.len())]).ok()?;
            // Until the client has had enough.
            stream.read(&mut [0; 1]).ok().map(drop)
        }
        Manner::Slow(bytes) => body.chunks(bytes).try_for_each(|piece| {
            thread::sleep(Duration::from_millis(5));
            stream.write_all(piece).ok()
        }),
        Manner::WrongBytes => stream.write_all(&vec![0; body.len()]).ok(),
        Manner::TooMuch => [body, body].iter().try_for_each(|body| stream.write_all(body).ok()),
        _ => stream.write_all(body).ok(),
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn content() -> Vec<u8> {
    (0..200_000u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[..1].to_vec()).collect()
}

/// Short, so that a server that stalls is given up soon; long enough for a machine that is busy.
const PATIENCE: Patience =
    Patience { answer: Duration::from_secs(20), mebibyte: Duration::from_secs(20), tries: 3 };

fn get(server: &Server, folder: &Path, patience: Patience) -> Result<Vec<u8>, DataError> {
    let content = content();
    let sha256 = hash(&content);
    let files = [RemoteFile { name: "it.bin", bytes: content.len() as u64, sha256: &sha256 }];
    let remote = Remote { name: "it", base: None, files: &files, source: "records", unpacked: None };
    let mut most = 0;
    let path = fetch(&remote, folder, Some(&server.base), patience, &mut |_, here, all| {
        assert!(here <= all);
        most = here;
    })?;
    assert!(most == content.len() as u64 || most == 0);
    Ok(fs::read(path.join("it.bin")).unwrap())
}

fn left(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_published_is_described_in_full() {
    assert!(REMOTES.is_sorted_by(|a, b| a.name < b.name));
    for remote in REMOTES {
        assert!(SOURCES.iter().any(|(name, _)| *name == remote.source), "{}", remote.name);
        assert!(!remote.files.is_empty() && (remote.unpacked.is_none() || remote.files.len() == 1));
        for file in remote.files {
            let hexadecimal = file.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            assert!(file.sha256.len() == 64 && hexadecimal && file.bytes > 0, "{}", file.name);
        }
    }
}

#[test]
fn a_file_arrives_whatever_the_server_does_on_the_way() {
    use Manner::{CutAfter, Good, Moved, NoParts, Silent, Slow, Status, WrongPart};
    for manners in [
        &[Good][..],
        &[Slow(20_000)],
        &[Moved],
        &[CutAfter(1000), Good],
        &[CutAfter(70_000), CutAfter(70_000), CutAfter(0), Good],
        &[CutAfter(1000), NoParts],
        &[CutAfter(1000), WrongPart, Good],
        &[Silent, Good],
        &[Status(503), Status(500), Good],
        &[CutAfter(1000), Status(416), Good],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(content(), manners);
        let arrived =
            get(&server, folder.path(), PATIENCE).unwrap_or_else(|error| panic!("{manners:?}: {error}"));
        assert!(arrived == content(), "{manners:?}");
        assert_eq!(left(folder.path()), ["it.bin"], "{manners:?}");
        // It is there now, and no server is asked again.
        let asked = server.requests.lock().unwrap().len();
        get(&server, folder.path(), PATIENCE).unwrap();
        assert_eq!(server.requests.lock().unwrap().len(), asked, "{manners:?}");
    }
}

#[test]
fn what_arrived_is_gone_on_with_in_a_later_run() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(content(), &[Manner::CutAfter(50_000), Manner::Silent, Manner::Silent, Manner::Good]);
    let text = get(&server, folder.path(), Patience { tries: 2, ..PATIENCE }).unwrap_err().to_string();
    assert!(text.contains("what arrived is kept, try again"), "{text}");
    assert_eq!(left(folder.path()), ["it.bin.part"]);
    assert_eq!(fs::metadata(folder.path().join("it.bin.part")).unwrap().len(), 50_000);
    let asked = server.requests.lock().unwrap().len();
    let rest = serve(content(), &[Manner::Good]);
    assert!(get(&rest, folder.path(), PATIENCE).unwrap() == content());
    assert_eq!(*rest.requests.lock().unwrap(), ["GET /set/it.bin HTTP/1.1 50000-"]);
    assert!(asked >= 2);
    assert_eq!(left(folder.path()), ["it.bin"]);
}

#[test]
fn a_server_that_stalls_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(content(), &[Manner::StallAfter(1000)]);
    let patience = Patience { mebibyte: Duration::from_millis(300), tries: 2, ..PATIENCE };
    let text = get(&server, folder.path(), patience).unwrap_err().to_string();
    assert!(text.contains("/set/it.bin") && text.contains("try again"), "{text}");
    assert_eq!(left(folder.path()), ["it.bin.part"]);
}

#[test]
fn what_is_not_the_file_never_gets_its_name() {
    for (manner, words) in [
        (Manner::Status(404), "the server answers 404"),
        (Manner::Status(403), "the server answers 403"),
        (Manner::WrongBytes, "and was removed; the server has another file"),
        (Manner::TooMuch, "more than its 200000 bytes came"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = serve(content(), &[manner]);
        let text = get(&server, folder.path(), PATIENCE).unwrap_err().to_string();
        assert!(
            text.contains(words) && text.starts_with("cannot fetch http://127.0.0.1:"),
            "{manner:?}: {text}"
        );
        assert!(!text.contains('\n'), "{text}");
        assert!(!folder.path().join("it.bin").exists());
        assert!(left(folder.path()).iter().all(|name| name == "it.bin.part"));
    }
    // A part of another file goes with the whole.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("it.bin.part"), [9; 1000]).unwrap();
    let server = serve(content(), &[Manner::Good]);
    assert!(get(&server, folder.path(), PATIENCE).is_err());
    assert!(left(folder.path()).is_empty());
    assert!(get(&server, folder.path(), PATIENCE).unwrap() == content());
    // Somebody's own file is not touched.
    fs::write(folder.path().join("it.bin"), b"mine").unwrap();
    let text = get(&server, folder.path(), PATIENCE).unwrap_err().to_string();
    assert!(text.contains("is there with the SHA-256") && text.contains("remove it"), "{text}");
    assert_eq!(fs::read(folder.path().join("it.bin")).unwrap(), b"mine");
}

#[test]
fn no_server_and_no_address_are_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for base in [format!("http://{closed}"), "http://".into(), "no address".into()] {
        let server = Server { base, requests: Arc::default() };
        let text = get(&server, folder.path(), PATIENCE).unwrap_err().to_string();
        assert!(text.starts_with("cannot fetch ") && !text.contains('\n'), "{text}");
    }
    let celeba = REMOTES.iter().find(|remote| remote.name == "celeba").unwrap();
    let text = fetch(celeba, folder.path(), None, PATIENCE, &mut |_, _, _| {}).unwrap_err().to_string();
    assert!(text.contains("download it by hand to ") && text.contains("img_align_celeba.zip"), "{text}");
}

#[test]
fn an_archive_is_unpacked_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    builder.append_data(&mut header, "set/train/a/1.txt", &b"one"[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    let sha256 = hash(&archive);
    let files = [RemoteFile { name: "set.tar", bytes: archive.len() as u64, sha256: &sha256 }];
    let remote =
        Remote { name: "set", base: None, files: &files, source: "folder", unpacked: Some("images") };
    let server = serve(archive, &[Manner::Good]);
    for _ in 0..2 {
        let path = fetch(&remote, folder.path(), Some(&server.base), PATIENCE, &mut |_, _, _| {}).unwrap();
        assert_eq!(path, folder.path().join("images"));
        assert_eq!(fs::read(path.join("train/a/1.txt")).unwrap(), b"one");
    }
    assert_eq!(server.requests.lock().unwrap().len(), 1);
    assert_eq!(left(folder.path()), ["images", "set.tar"]);
}
