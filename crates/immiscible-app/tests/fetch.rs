//! `immiscible data fetch` from a server on the loopback address. What servers do wrong is tested in `immiscible-data`.
#![cfg(feature = "fetch")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::thread;

mod common;

use common::{immiscible, refused, succeed, text};

/// Answers every request for a name with what `body` says, and notes it.
fn serve(
    status: &'static str,
    body: impl Fn(&str) -> Vec<u8> + Send + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    // Ends with the process; every test makes a bounded number of requests.
    thread::spawn(move || {
        for stream in listener.incoming().take(64) {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines: Vec<String> =
                lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let name = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
            let name = name.trim_start_matches('/').to_owned();
            let body = body(&name);
            log.lock().unwrap().push(name);
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    (base, asked)
}

fn fetch(folder: &Path, name: &str, base: &str) -> Output {
    immiscible(folder, &["data", "fetch", name, "--into", "set", "--url-base", base])
}

/// The one line of a command that failed while it ran.
fn failed(output: &Output) -> String {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

#[test]
fn what_a_server_has_not_or_has_wrong_is_one_line_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (base, asked) = serve("404 Not Found", |_| b"<html/>".to_vec());
    let message = failed(&fetch(folder, "mnist", &base));
    assert!(message.contains("404") && message.contains("train-images-idx3-ubyte.gz"), "{message}");
    assert_eq!(asked.lock().unwrap()[0], "train-images-idx3-ubyte.gz");

    let (base, _) = serve("200 OK", |_| b"these are other bytes".to_vec());
    let message = failed(&fetch(folder, "mnist", &base));
    assert!(message.contains("train-images-idx3-ubyte.gz"), "{message}");
    let whole = |name: &str| name.ends_with(".gz");
    let left = fs::read_dir(folder.join("set")).map_or(0, |entries| {
        entries.filter(|entry| whole(&entry.as_ref().unwrap().file_name().to_string_lossy())).count()
    });
    assert_eq!(left, 0);

    let message = refused(folder, &["data", "fetch", "mnits"]);
    assert!(message.contains("did you mean `mnist`"), "{message}");
}

/// With `IMMISCIBLE_FASHION_MNIST=DIR`, which holds the four files as they are published.
#[test]
fn what_is_whole_is_kept_and_trained_on() {
    let Some(real) = std::env::var_os("IMMISCIBLE_FASHION_MNIST").map(PathBuf::from) else {
        println!("skipped: IMMISCIBLE_FASHION_MNIST names no folder");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (base, asked) = serve("200 OK", move |name| fs::read(real.join(name)).unwrap());
    let output = fetch(folder, "fashion-mnist", &base);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("data={name=\"fashion-mnist\", path=\"set\"}"), "{said}");
    assert_eq!(asked.lock().unwrap().len(), 4);
    let checked = succeed(folder, &["data", "check", "set", "--kind", "fashion-mnist"]);
    assert!(checked.contains("samples   60000 of 1×28×28"), "{checked}");

    // What is there is not asked for again; what is damaged is.
    fs::write(folder.join("set/t10k-labels-idx1-ubyte.gz"), b"half of it").unwrap();
    assert!(fetch(folder, "fashion-mnist", &base).status.success());
    assert_eq!(asked.lock().unwrap()[4..], ["t10k-labels-idx1-ubyte.gz"]);
}
