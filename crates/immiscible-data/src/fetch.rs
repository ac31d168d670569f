use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_RANGE, RANGE};

use crate::{DataError, UnpackLimits, unpack};

/// A data set that can be downloaded.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Where its files are, up to their names; `None` where no address hands them out without a person.
    pub base: Option<&'a str>,
    /// Its files.
    pub files: &'a [RemoteFile<'a>],
    /// The name in [`SOURCES`](crate::SOURCES) that reads it.
    pub source: &'a str,
    /// The folder that its archive is unpacked to; `None` where the files are read as they are.
    pub unpacked: Option<&'a str>,
}

/// A file that is known by its content.
#[derive(Clone, Copy, Debug)]
pub struct RemoteFile<'a> {
    /// Its name, on the server and here.
    pub name: &'a str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: &'a str,
}

const fn file<'a>(name: &'a str, bytes: u64, sha256: &'a str) -> RemoteFile<'a> {
    RemoteFile { name, bytes, sha256 }
}

/// Every data set that can be fetched, sorted by name. Lengths and hashes are those that TensorFlow Datasets has.
pub const REMOTES: &[Remote<'static>] = &[
    Remote {
        name: "celeba",
        // The authors' address wants a person to confirm.
        base: None,
        files: &[file(
            "img_align_celeba.zip",
            1_443_490_838,
            "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
        )],
        source: "folder",
        unpacked: Some("img_align_celeba"),
    },
    Remote {
        name: "cifar10",
        base: Some("https://www.cs.toronto.edu/~kriz/"),
        files: &[file(
            "cifar-10-binary.tar.gz",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )],
        source: "cifar10",
        unpacked: None,
    },
    Remote {
        name: "cifar100",
        base: Some("https://www.cs.toronto.edu/~kriz/"),
        files: &[file(
            "cifar-100-binary.tar.gz",
            168_513_733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        )],
        source: "cifar100",
        unpacked: None,
    },
    Remote {
        name: "fashion-mnist",
        base: Some("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ],
        source: "fashion-mnist",
        unpacked: None,
    },
    Remote {
        name: "imagenette",
        base: Some("https://s3.amazonaws.com/fast-ai-imageclas/"),
        files: &[file(
            "imagenette2-160.tgz",
            99_003_388,
            "64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5",
        )],
        source: "folder",
        unpacked: Some("imagenette2-160"),
    },
    Remote {
        name: "kmnist",
        base: Some("http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                18_165_135,
                "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                29_497,
                "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                3_041_136,
                "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                5_120,
                "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            ),
        ],
        source: "idx",
        unpacked: None,
    },
    Remote {
        name: "mnist",
        base: Some("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        files: &[
            file(
                "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            file(
                "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            file(
                "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            file(
                "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ],
        source: "mnist",
        unpacked: None,
    },
];

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To answer.
    pub answer: Duration,
    /// For each MiB that is left of a file, and once more for its beginning.
    pub mebibyte: Duration,
    /// Connections in a row that bring nothing before a file is given up.
    pub tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_secs(30), mebibyte: Duration::from_secs(60), tries: 4 }
    }
}

/// Downloads a data set to the folder `into`, and unpacks it where it must be. What is there already is checked and kept;
/// a file that arrived in part is gone on with. Every file is whole and has its hash before it gets its name.
///
/// `base` takes the place of the address. `progress` is told each file's name, the bytes that are here, and all.
///
/// Returns the path to train on.
///
/// # Errors
/// [`DataError::Fetch`] where a server does not bring what it should, [`DataError::Archive`], and whatever the file system
/// says.
pub fn fetch(
    remote: &Remote<'_>,
    into: &Path,
    base: Option<&str>,
    patience: Patience,
    progress: &mut dyn FnMut(&str, u64, u64),
) -> Result<PathBuf, DataError> {
    let base = base.or(remote.base);
    fs::create_dir_all(into).map_err(|source| DataError::Write { path: into.into(), source })?;
    if let Some(folder) = remote.unpacked.map(|name| into.join(name))
        && folder.is_dir()
    {
        // It was renamed when it was whole.
        return Ok(folder);
    }
    for file in remote.files {
        let download = Download { file, path: into.join(file.name), base, patience };
        download.run(progress)?;
    }
    match (remote.unpacked, remote.files) {
        (Some(name), [archive, ..]) => {
            let folder = into.join(name);
            unpack(&into.join(archive.name), &folder, UnpackLimits::default())?;
            Ok(folder)
        }
        _ => Ok(into.into()),
    }
}

struct Download<'a> {
    file: &'a RemoteFile<'a>,
    path: PathBuf,
    base: Option<&'a str>,
    patience: Patience,
}

impl Download<'_> {
    fn run(&self, progress: &mut dyn FnMut(&str, u64, u64)) -> Result<(), DataError> {
        if self.path.exists() {
            let found = sha256(&self.path)?;
            return match found == self.file.sha256 {
                true => Ok(()),
                false => Err(self.failed(format!(
                    "{} is there with the SHA-256 {found}, not {}; remove it",
                    self.path.display(),
                    self.file.sha256
                ))),
            };
        }
        let mut partial = self.path.as_os_str().to_owned();
        partial.push(".part");
        let partial = PathBuf::from(partial);
        let write = |source| DataError::Write { path: partial.clone(), source };
        let mut out = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&partial)
            .map_err(write)?;
        let mut here = out.metadata().map_err(write)?.len();
        if here > self.file.bytes {
            out.set_len(0).map_err(write)?;
            here = 0;
        }
        let mut in_vain = 0;
        while here < self.file.bytes {
            let before = here;
            match self.more(&mut out, &mut here, progress) {
                Ok(()) if here < self.file.bytes => {
                    in_vain += 1;
                    if in_vain >= self.patience.tries {
                        let (here, all) = (here, self.file.bytes);
                        return Err(self.failed(format!("it ends after {here} of {all} bytes; try again")));
                    }
                }
                Ok(()) => {}
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing(reason)) => {
                    in_vain += 1;
                    if in_vain >= self.patience.tries {
                        return Err(self.failed(format!("{reason}; what arrived is kept, try again")));
                    }
                }
            }
            if here > before {
                in_vain = in_vain.min(1);
            }
        }
        out.sync_all().map_err(write)?;
        drop(out);
        let found = sha256(&partial)?;
        if found != self.file.sha256 {
            let _ = fs::remove_file(&partial);
            return Err(self.failed(format!(
                "what arrived has the SHA-256 {found}, not {}, and was removed; the server has another file",
                self.file.sha256
            )));
        }
        fs::rename(&partial, &self.path).map_err(write)
    }

    /// Asks for what is missing, and appends what comes.
    fn more(
        &self,
        out: &mut File,
        here: &mut u64,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<(), Trouble> {
        let Some(base) = self.base else {
            return Err(Trouble::Final(self.failed(format!(
                "no address hands it out without a person; download it by hand to {}, or name a copy with --url-base",
                self.path.display()
            ))));
        };
        let url = format!("{}/{}", base.trim_end_matches('/'), self.file.name);
        let all = self.file.bytes;
        let mebibytes = u32::try_from((all - *here) >> 20).unwrap_or(u32::MAX).saturating_add(1);
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(self.patience.answer))
            .timeout_recv_response(Some(self.patience.answer))
            .timeout_recv_body(Some(self.patience.mebibyte.saturating_mul(mebibytes)))
            .build()
            .into();
        let mut request = agent.get(&url);
        if *here > 0 {
            request = request.header(RANGE, format!("bytes={here}-"));
        }
        let mut response = request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                Trouble::Final(self.failed(format!("the address cannot be used ({})", one_line(&error))))
            }
            error => Trouble::Passing(one_line(&error)),
        })?;
        let from = response.headers().get(CONTENT_RANGE).and_then(|range| {
            range.to_str().ok()?.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok()
        });
        match response.status() {
            StatusCode::PARTIAL_CONTENT if from == Some(*here) => {}
            // A server that sends files whole only.
            StatusCode::OK => *here = 0,
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                *here = 0;
                let write = |error: io::Error| Trouble::Passing(error.to_string());
                out.set_len(0).map_err(write)?;
                return Err(Trouble::Passing("the server has no such part of the file".into()));
            }
            status if status.is_server_error() => {
                return Err(Trouble::Passing(format!("the server answers {status}")));
            }
            status => {
                return Err(Trouble::Final(self.failed(format!(
                    "the server answers {status}; check the address, or name another with --url-base"
                ))));
            }
        }
        let disk = |source| Trouble::Final(DataError::Write { path: self.path.clone(), source });
        out.set_len(*here).map_err(disk)?;
        out.seek(SeekFrom::Start(*here)).map_err(disk)?;
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Passing(one_line(&error))),
            };
            if read as u64 > all - *here {
                out.set_len(0).map_err(disk)?;
                return Err(Trouble::Final(self.failed(format!(
                    "more than its {all} bytes came, and were removed; the server has another file"
                ))));
            }
            out.write_all(&buffer[..read]).map_err(disk)?;
            *here += read as u64;
            progress(self.file.name, *here, all);
        }
    }

    fn failed(&self, reason: String) -> DataError {
        let url = format!("{}/{}", self.base.unwrap_or_default().trim_end_matches('/'), self.file.name);
        DataError::Fetch { url: url.trim_start_matches('/').into(), reason }
    }
}

/// Why no more of a file came.
enum Trouble {
    /// Another try may bring more.
    Passing(String),
    Final(DataError),
}

fn one_line(error: &dyn std::error::Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sha256(path: &Path) -> Result<String, DataError> {
    let mut hash = Sha256::new();
    let mut read = || {
        let (mut file, mut buffer) = (File::open(path)?, vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                read => hash.update(&buffer[..read]),
            }
        }
    };
    read().map_err(|source| DataError::Io { path: path.into(), source })?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
