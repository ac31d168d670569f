//! A file system in memory that fails, or loses its power, at a chosen operation.
//!
//! It keeps what was brought to the disk apart from what was only written. After a crash, what had not been brought
//! there is kept, lost or torn by chance, each change of a name by itself.

use immiscible_train::FileSystem;
use std::collections::BTreeMap;
use std::io::{self, Cursor, ErrorKind, Read};
use std::path::{Component, Path};
use std::sync::{Mutex, MutexGuard};

const ROOT: usize = 0;

#[derive(Clone, Debug)]
enum Node {
    File { written: Vec<u8>, on_disk: Vec<u8> },
    Folder { names: BTreeMap<String, usize>, on_disk: BTreeMap<String, usize>, changes: Vec<Change> },
}

/// A change of the names in a folder.
#[derive(Clone, Debug)]
enum Change {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, node) => drop(names.insert(name.clone(), *node)),
            Self::Unlink(name) => drop(names.remove(name)),
            Self::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// What happens at which operation, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Plan {
    #[default]
    Nothing,
    /// It fails, half done where it can be.
    Fail(usize),
    /// Neither it nor any later one happens.
    Crash(usize),
}

#[derive(Clone, Debug)]
struct State {
    nodes: Vec<Node>,
    operations: usize,
    plan: Plan,
}

#[derive(Debug)]
pub(crate) struct Simulated(Mutex<State>);

fn empty_folder() -> Node {
    Node::Folder { names: BTreeMap::new(), on_disk: BTreeMap::new(), changes: Vec::new() }
}

impl Simulated {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { nodes: vec![empty_folder()], operations: 0, plan: Plan::Nothing }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The same files, with a plan for the operations from here on.
    pub(crate) fn with(&self, plan: Plan) -> Self {
        Self(Mutex::new(State { operations: 0, plan, ..self.state().clone() }))
    }

    /// Operations since the plan was made.
    pub(crate) fn operations(&self) -> usize {
        self.state().operations
    }

    /// The files after a kill of the process: the system still has everything.
    pub(crate) fn killed(&self) -> Self {
        self.with(Plan::Nothing)
    }

    /// The files after a loss of power.
    pub(crate) fn power_lost(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        let mut chance = Chance(seed);
        for node in &mut state.nodes {
            match node {
                Node::File { written, on_disk } if written != on_disk => {
                    match chance.below(4) {
                        0 => {}
                        1 => on_disk.clone_from(written),
                        2 => *on_disk = written[..chance.below(written.len() + 1)].to_vec(),
                        // The length was kept, and the contents were not.
                        _ => *on_disk = vec![0; written.len()],
                    }
                    written.clone_from(on_disk);
                }
                Node::File { .. } => {}
                Node::Folder { names, on_disk, changes } => {
                    for change in changes.drain(..) {
                        if chance.below(2) == 0 {
                            change.apply(on_disk);
                        }
                    }
                    names.clone_from(on_disk);
                }
            }
        }
        Self(Mutex::new(State { operations: 0, plan: Plan::Nothing, ..state }))
    }

    /// Changes a file behind everybody's back.
    pub(crate) fn damage(&self, path: &Path) {
        let mut state = self.state();
        let node = state.find(path).unwrap();
        match &mut state.nodes[node] {
            Node::File { written, on_disk } => {
                written[0] ^= 1;
                on_disk.clone_from(written);
            }
            Node::Folder { .. } => panic!("{}", path.display()),
        }
    }
}

/// SplitMix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

impl State {
    /// Counts an operation; an error if the plan wants it.
    fn operation(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.plan {
            Plan::Fail(at) if at == number => Err(ErrorKind::StorageFull.into()),
            Plan::Crash(at) if number >= at => Err(io::Error::other("the process is gone")),
            _ => Ok(()),
        }
    }

    fn failing(&self) -> bool {
        matches!(self.plan, Plan::Fail(at) if at + 1 == self.operations)
    }

    fn names(path: &Path) -> Vec<String> {
        let name = |part: Component| match part {
            Component::Normal(name) => Some(name.to_str()?.to_owned()),
            _ => None,
        };
        path.components().filter_map(name).collect()
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        Self::names(path).iter().try_fold(ROOT, |at, name| match &self.nodes[at] {
            Node::Folder { names, .. } => names.get(name).copied().ok_or(ErrorKind::NotFound.into()),
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        })
    }

    fn above(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = Self::names(path).pop().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn change(&mut self, folder: usize, change: Change) {
        if let Node::Folder { names, changes, .. } = &mut self.nodes[folder] {
            change.apply(names);
            changes.push(change);
        }
    }

    fn add(&mut self, folder: usize, name: String, node: Node) -> usize {
        self.nodes.push(node);
        let number = self.nodes.len() - 1;
        self.change(folder, Change::Link(name, number));
        number
    }

    fn sync(&mut self, folder: usize) -> io::Result<()> {
        match &mut self.nodes[folder] {
            Node::Folder { names, on_disk, changes } => {
                on_disk.clone_from(names);
                changes.clear();
                Ok(())
            }
            Node::File { .. } => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn remove(&mut self, folder: usize, name: &str) -> io::Result<()> {
        let node = match &self.nodes[folder] {
            Node::Folder { names, .. } => names.get(name).copied(),
            Node::File { .. } => return Err(ErrorKind::NotADirectory.into()),
        };
        let Some(node) = node else { return Ok(()) };
        if let Node::Folder { names, .. } = self.nodes[node].clone() {
            for name in names.keys() {
                self.remove(node, name)?;
            }
        }
        self.operation()?;
        self.change(folder, Change::Unlink(name.into()));
        Ok(())
    }
}

impl FileSystem for Simulated {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut at = ROOT;
        for name in State::names(path) {
            let next = match &state.nodes[at] {
                Node::Folder { names, .. } => names.get(&name).copied(),
                Node::File { .. } => return Err(ErrorKind::NotADirectory.into()),
            };
            at = match next {
                Some(next) => next,
                None => {
                    state.operation()?;
                    let made = state.add(at, name, empty_folder());
                    state.operation()?;
                    state.sync(at)?;
                    made
                }
            };
        }
        Ok(())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        // Created or emptied,
        state.operation()?;
        let (folder, name) = state.above(path)?;
        let node = match state.find(path) {
            Ok(node) => node,
            Err(_) => state.add(folder, name, Node::File { written: Vec::new(), on_disk: Vec::new() }),
        };
        let put = |state: &mut State, bytes: &[u8]| match &mut state.nodes[node] {
            Node::File { written, .. } => *written = bytes.to_vec(),
            Node::Folder { .. } => panic!("{} is a folder", path.display()),
        };
        put(&mut state, &[]);
        // written,
        if let Err(error) = state.operation() {
            if state.failing() {
                put(&mut state, &bytes[..bytes.len() / 2]);
            }
            return Err(error);
        }
        put(&mut state, bytes);
        // and flushed.
        state.operation()?;
        if let Node::File { written, on_disk } = &mut state.nodes[node] {
            on_disk.clone_from(written);
        }
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let node = state.find(path)?;
        state.sync(node)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.operation()?;
        let ((folder, from), (same, to)) = (state.above(from)?, state.above(to)?);
        assert_eq!(folder, same, "between folders a rename is more than one change");
        let Node::Folder { names, .. } = &state.nodes[folder] else {
            return Err(ErrorKind::NotADirectory.into());
        };
        let node = *names.get(&from).ok_or(ErrorKind::NotFound)?;
        if let Some(Node::Folder { names, .. }) = names.get(&to).map(|node| &state.nodes[*node])
            && !names.is_empty()
        {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(folder, Change::Rename(from, to, node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        match state.above(path) {
            Ok((folder, name)) => state.remove(folder, &name),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        let mut state = self.state();
        state.operation()?;
        let node = state.find(path)?;
        match &state.nodes[node] {
            Node::File { written, .. } => Ok(Box::new(Cursor::new(written.clone()))),
            Node::Folder { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operation()?;
        match state.find(path).map(|node| state.nodes[node].clone()) {
            Ok(Node::Folder { names, .. }) => Ok(names.into_keys().collect()),
            Ok(Node::File { .. }) => Err(ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
