//! sled, on a thread of its own: takes over what the journal made durable, a table at a time, reads what is asked for, and writes
//! itself anew where it has grown too large. None of that keeps a commit waiting.
//!
//! Invariant: a table is reported as taken over only after all of it is on stable storage in sled, together with the number of
//! its journal; from then on that journal is never read again. After the first error nothing is written any more.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use sled::{Batch, Db};

use super::StoreConfig;
use super::ballast;
use super::directory::{Directory, check_place};
use super::load;
use super::record::Key;
use super::recover::{self, guarded};
use super::rotate::{self, Rotation};
use super::stats::Counters;
use super::table::Table;
use super::wake::Watched;
use crate::relay::record::{Stored, Wanted};

/// Entries given to sled at once, and about how many bytes.
const PART: usize = 500;
const PART_BYTES: usize = 1 << 20;

enum Task {
    /// Take over what stands in the journal with this number.
    Take(Arc<Table>, u64),
    /// Read these records.
    Load(Vec<Wanted>),
    /// Look whether the data takes much more room than the bytes that are needed. `full`: nothing is accepted for want of room.
    Look { needed: u64, full: bool },
    /// Write nothing any more.
    Abandon,
}

/// The thread, as the one of the commits sees it.
#[derive(Debug)]
pub(super) struct Base {
    tasks: Sender<Task>,
    taken: Receiver<Result<(), String>>,
    loaded: Receiver<Result<Vec<Stored>, String>>,
    thread: JoinHandle<Result<(), String>>,
}

impl Base {
    /// Starts the thread on an open sled.
    pub(super) fn start(
        directory: Arc<Directory>,
        config: StoreConfig,
        counters: Arc<Counters>,
        db: Db,
    ) -> std::io::Result<Base> {
        let (tasks, inbox) = channel();
        let (tell_taken, taken) = channel();
        let (tell_loaded, loaded) = channel();
        let mut keeper = Keeper {
            data: Data::new(db, &directory)?,
            directory,
            config,
            counters,
            rotation: None,
            left: None,
            rotate_after: None,
            taking: None,
        };
        let thread = std::thread::Builder::new().name("sled".to_owned()).spawn(move || {
            match keeper.run(&inbox, &tell_taken, &tell_loaded) {
                Ok(()) => keeper.close(),
                Err(reason) => {
                    // Whoever waits is told; closing would write again to a disk that just failed. The process keeps the
                    // memory until it ends.
                    let _ = (tell_taken.send(Err(reason.clone())), tell_loaded.send(Err(reason.clone())));
                    let Keeper { data, rotation, .. } = keeper;
                    std::mem::forget((data, rotation));
                    Err(reason)
                }
            }
        })?;
        Ok(Base { tasks, taken, loaded, thread })
    }

    /// Hands over what stands in the journal with this number.
    pub(super) fn take(&self, table: Arc<Table>, journal: u64) {
        // A thread that has ended has said why.
        let _ = self.tasks.send(Task::Take(table, journal));
    }

    /// Whether it took over what it was handed; the error is its last word. `wait`: until it has.
    pub(super) fn taken(&self, wait: bool) -> Result<bool, String> {
        if wait {
            return self.taken.recv().unwrap_or_else(|_| Err(ENDED.to_owned())).map(|()| true);
        }
        match self.taken.try_recv() {
            Ok(result) => result.map(|()| true),
            Err(TryRecvError::Empty) => Ok(false),
            Err(TryRecvError::Disconnected) => Err(ENDED.to_owned()),
        }
    }

    /// Reads these records, which must be there.
    pub(super) fn load(&self, wanted: Vec<Wanted>) -> Result<Vec<Stored>, String> {
        let _ = self.tasks.send(Task::Load(wanted));
        self.loaded.recv().unwrap_or_else(|_| Err(ENDED.to_owned()))
    }

    /// Considers writing the data anew.
    pub(super) fn look(&self, needed: u64, full: bool) {
        let _ = self.tasks.send(Task::Look { needed, full });
    }

    /// Nothing is written any more. Does not wait: the disk may not answer.
    pub(super) fn abandon(self) {
        let _ = self.tasks.send(Task::Abandon);
    }

    /// Closes sled, which has taken over everything.
    pub(super) fn close(self) -> Result<(), String> {
        drop(self.tasks);
        self.thread.join().unwrap_or_else(|_| Err(ENDED.to_owned()))
    }
}

const ENDED: &str = "the thread of sled has ended";

/// sled, its file, and who watches its flushes.
struct Data {
    /// Closed only while a fresh one takes its place.
    db: Option<Db>,
    /// Our own descriptor of sled's file: sled never syncs, and an own one sees every write error since it was opened.
    file: File,
    path: PathBuf,
    watched: Watched,
}

impl Data {
    fn new(db: Db, directory: &Directory) -> std::io::Result<Self> {
        let path = directory.join(recover::DATA).join("db");
        Ok(Data { db: Some(db), file: File::open(&path)?, path, watched: Watched::new()? })
    }

    fn db(&self) -> Result<&Db, String> {
        self.db.as_ref().ok_or_else(|| "the store is closed".to_owned())
    }

    /// Everything that was applied is on stable storage afterwards.
    fn sync(&self) -> Result<(), String> {
        self.watched.flush(self.db()?)?;
        self.file.sync_data().map_err(|error| format!("fdatasync: {error}"))?;
        check_place(&self.file, &self.path)
    }
}

/// The next part of a table without its counts, and the key it ends with; the last part has none.
fn part(table: &Table, last: Option<&Key>) -> (Batch, usize, Option<Key>) {
    let mut batch = Batch::default();
    let (mut count, mut bytes) = (0, 0);
    let mut end = None;
    for (key, value) in table.after(last).filter(|(key, _)| **key != Key::census()) {
        match value {
            Some(value) => batch.insert(key.as_ref(), value),
            None => batch.remove(key.as_ref()),
        }
        (count, bytes) = (count + 1, bytes + value.map_or(0, <[u8]>::len));
        if count == PART || bytes >= PART_BYTES {
            end = Some(key.clone());
            break;
        }
    }
    (batch, count, end)
}

/// What says that all of a table is in sled: its counts and the number of its journal. Given to sled only when the rest is durable: of
/// what sled cannot write, on a full disk, what came later may still be there at the next start.
fn seal(table: &Table, journal: u64) -> Batch {
    let mut batch = Batch::default();
    if let Some(Some(census)) = table.get(&Key::census()) {
        batch.insert(Key::census().as_ref(), census);
    }
    batch.insert(Key::journal().as_ref(), journal.to_be_bytes().as_slice());
    batch
}

/// Puts a whole table into a sled that nobody else uses; it is durable afterwards.
pub(super) fn take_over(db: &Db, directory: &Directory, table: &Table, journal: u64) -> Result<(), String> {
    let data = Data::new(db.clone(), directory).map_err(|error| error.to_string())?;
    let apply = |batch| db.apply_batch(batch).map_err(|error| format!("writing: {error}"));
    let mut last = None;
    loop {
        let (batch, count, end) = part(table, last.as_ref());
        apply(batch)?;
        sweep(count);
        match end {
            Some(_) => last = end,
            None => break,
        }
    }
    data.sync()?;
    apply(seal(table, journal))?;
    data.sync()
}

/// Frees the memory of what so many entries replaced, or were read from. sled leaves that to a collector which frees at most 512
/// things at every 128th entry into sled. A batch is one entry and replaces some three things an operation, so with large batches
/// it falls behind for good: 7 KB more memory with every message.
pub(super) fn sweep(entries: usize) {
    // What was replaced is free two rounds later.
    for _ in 0..entries / 64 + 3 {
        crossbeam_epoch::pin().flush();
    }
}

/// The thread's state.
struct Keeper {
    data: Data,
    directory: Arc<Directory>,
    config: StoreConfig,
    counters: Arc<Counters>,
    /// The copy, and what was needed at its beginning.
    rotation: Option<(Rotation, u64)>,
    /// What was needed when the data was last written anew, and what that left.
    left: Option<(u64, u64)>,
    /// No rotation before this: the last one failed.
    rotate_after: Option<Instant>,
    /// What is being taken over, its journal, and the last key of the part before.
    taking: Option<(Arc<Table>, u64, Option<Key>)>,
}

impl Keeper {
    /// Until nobody has tasks any more, or the first error.
    fn run(
        &mut self,
        inbox: &Receiver<Task>,
        taken: &Sender<Result<(), String>>,
        loaded: &Sender<Result<Vec<Stored>, String>>,
    ) -> Result<(), String> {
        loop {
            let task = if self.is_busy() {
                match inbox.try_recv() {
                    Err(TryRecvError::Disconnected) => return Ok(()),
                    task => task.ok(),
                }
            } else {
                match inbox.recv() {
                    Err(_) => return Ok(()),
                    task => task.ok(),
                }
            };
            // Who waits for an answer is told at its end. Nobody does any more where it cannot be told.
            guarded(AssertUnwindSafe(|| {
                match task {
                    Some(Task::Take(table, journal)) => self.taking = Some((table, journal, None)),
                    Some(Task::Load(wanted)) => drop(loaded.send(Ok(load::records(self.data.db()?, &wanted)?))),
                    Some(Task::Look { needed, full }) => self.consider_rotation(needed, full),
                    Some(Task::Abandon) => return Err("abandoned".to_owned()),
                    None => {}
                }
                if self.take_part()? {
                    let _ = taken.send(Ok(()));
                }
                if self.taking.is_none() { self.rotate() } else { Ok(()) }
            }))
            .unwrap_or_else(Err)?;
        }
    }

    fn is_busy(&self) -> bool {
        self.taking.is_some() || self.rotation.is_some()
    }

    /// Takes over the next part of a table; says whether that was the last.
    fn take_part(&mut self) -> Result<bool, String> {
        let Some((table, journal, last)) = self.taking.as_ref() else { return Ok(false) };
        let (batch, count, end) = part(table, last.as_ref());
        let seal = seal(table, *journal);
        self.apply(batch, count)?;
        if let Some(end) = end {
            self.taking.as_mut().map(|(.., last)| last.insert(end));
            return Ok(false);
        }
        self.data.sync()?;
        self.apply(seal, 1)?;
        self.data.sync()?;
        self.taking = None;
        Ok(true)
    }

    /// Gives entries to sled, and to its copy if there is one.
    fn apply(&mut self, batch: Batch, entries: usize) -> Result<(), String> {
        if let Some(Err(problem)) = self.rotation.as_ref().map(|(rotation, _)| rotation.apply(&batch)) {
            self.give_up_rotation(&problem);
        }
        self.data.db()?.apply_batch(batch).map_err(|error| format!("writing: {error}"))?;
        sweep(if self.rotation.is_some() { 2 * entries } else { entries });
        Ok(())
    }

    /// Begins to write the data anew if it takes much more room than is needed, and the disk has room for a copy.
    fn consider_rotation(&mut self, needed: u64, full: bool) {
        let measured = self.directory.bytes_below(&self.directory.join(recover::DATA));
        let Ok((disk, free)) = measured.and_then(|disk| Ok((disk, self.directory.free_bytes()?))) else { return };
        let above = rotate::above(needed, self.config.rotate_above, disk.saturating_add(free), full);
        if self.rotation.is_some()
            || disk <= above.max(self.left.map_or(0, |left| rotate::again_above(left, needed)))
            || self.rotate_after.is_some_and(|after| Instant::now() < after)
        {
            return;
        }
        // The room set aside for a full disk may save it from being one.
        let copy = rotate::copy(needed);
        if free.saturating_add(ballast::bytes(&self.directory)) < copy {
            return;
        }
        if let Err(error) = ballast::give_back(&self.directory, copy) {
            tracing::warn!(%error, "cannot give back the room set aside on the disk");
            return;
        }
        match Rotation::begin(&self.directory, self.config) {
            Ok(rotation) => {
                tracing::info!(disk, needed, "the store's file is much larger than what is in it: it is written anew");
                self.rotation = Some((rotation, needed));
            }
            Err(problem) => self.give_up_rotation(&problem),
        }
    }

    /// The next part of a rotation. An error is the store's, not the copy's.
    fn rotate(&mut self) -> Result<(), String> {
        let Some((rotation, _)) = self.rotation.as_mut() else { return Ok(()) };
        match rotation.step(self.data.db()?) {
            Ok(true) => {}
            // The old one must not fail because of its copy.
            Ok(false) if self.directory.free_bytes().is_ok_and(|free| free < rotate::SPARE) => {
                self.give_up_rotation("the disk has no room for a copy");
                return Ok(());
            }
            Ok(false) => return Ok(()),
            Err(problem) => {
                self.give_up_rotation(&problem);
                return Ok(());
            }
        }
        let Some((rotation, needed)) = self.rotation.take() else { return Ok(()) };
        match rotation.close(&self.directory, &self.data.watched) {
            Ok(entries) => tracing::info!(entries, "the store was written anew"),
            Err(problem) => {
                self.give_up_rotation(&problem);
                return Ok(());
            }
        }
        self.take_place()?;
        let left = self.data.file.metadata().map_err(|error| format!("measuring its file: {error}"))?.len();
        self.left = Some((needed, left));
        self.counters.rotated();
        Ok(())
    }

    /// The fresh data takes the place of the old, and is opened there: sled holds on to the place where it was opened.
    fn take_place(&mut self) -> Result<(), String> {
        drop(self.data.db.take());
        rotate::swap(&self.directory)?;
        let path = self.directory.join(recover::DATA);
        self.data.db = Some(recover::try_open(&path, self.config).map_err(|error| error.to_string())??);
        self.data.file = File::open(&self.data.path).map_err(|error| format!("opening its file: {error}"))?;
        self.directory.sync_all(&path).map_err(|error| format!("syncing the directory: {error}"))
    }

    fn give_up_rotation(&mut self, problem: &str) {
        tracing::warn!(problem, "the store cannot be written anew now; it goes on in its old file");
        if let Some((rotation, _)) = self.rotation.take() {
            rotation.abandon(&self.data.watched);
        }
        self.rotate_after = Some(Instant::now() + rotate::PAUSE);
    }

    fn close(self) -> Result<(), String> {
        let closed = guarded(AssertUnwindSafe(|| {
            if let Some((rotation, _)) = self.rotation {
                rotation.abandon(&self.data.watched);
            }
            drop(self.data);
        }));
        closed.map(drop)
    }
}
