//! The node's side of a session: starts a shim, finds one again, and speaks with it.
//!
//! A [`Session`] is a view, not an owner: dropping it lets the process run on under its shim. Its one task follows the
//! shim's socket and ends with it.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use hiveward_runtime::clock::Deadline;
use rustix::fs::{FlockOperation, flock};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Stream,
    cgroup,
    layout::{Exit, SOCKET, SessionDir, Started},
    procs,
    tail::Tail,
    wire::{self, Ask, Event, KIND_EVENT, KIND_REQUEST, KIND_STDIN, Launched, Overflow, Params, Request, STDIN_BYTES_MAX, Stdin, TAG_BYTES_MAX},
};
use crate::agent::spec::{Limits, SessionSpec};

/// From launch to the program's execution, and from connecting to the shim's greeting.
const SHIM_PATIENCE: Duration = Duration::from_secs(20);
const ASKS_WAITING_MAX: usize = 16;

/// The program that holds sessions, and its arguments.
#[derive(Clone, Debug)]
pub struct ShimProgram {
    pub program: PathBuf,
    pub args: Vec<String>,
}

impl ShimProgram {
    /// This very binary, even when its file has been replaced since, as `hiveward shim`.
    pub fn this_binary() -> Self {
        Self { program: "/proc/self/exe".into(), args: vec!["shim".to_owned()] }
    }
}

/// What to run, and how to hold it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Made if it does not exist. At most one session ever runs in it.
    pub dir: PathBuf,
    pub argv: Vec<String>,
    /// The whole environment. May hold secrets: goes nowhere but into the process.
    pub env: Vec<(String, String)>,
    pub cwd: PathBuf,
    pub stdin: Stdin,
    pub mode: SessionSpec,
    pub limits: Limits,
    /// Kept by the shim, so it holds while the node is away. Time frozen does not count.
    pub wall: Option<Duration>,
    /// Between the steps of the stop that follows `wall`.
    pub grace: Duration,
    pub overflow: Overflow,
    pub shim: ShimProgram,
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program cannot be run: the sentence names it and where it was looked for. Nothing is left behind.
    #[error("{0}")]
    Program(String),
    /// Another launch has the directory: adopt it.
    #[error("a session runs in {} already", .0.display())]
    Busy(PathBuf),
    /// This machine failed us; a retry may work. Nothing runs.
    #[error("cannot {what}")]
    Machine { what: &'static str, #[source] source: io::Error },
}

/// The shim has gone without recording an end. Nothing of the session runs any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session's shim has gone without an exit record")]
pub struct Lost;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("{0}")]
    Refused(String),
    #[error("the session has ended")]
    Ended,
    #[error("at most {STDIN_BYTES_MAX} bytes of standard input at once")]
    TooLong,
}

/// What a directory holds after a restart.
#[derive(Debug)]
pub enum Adopted {
    Running(Session),
    Ended(Exit),
    NeverStarted,
    /// What it left behind has been killed.
    Lost,
}

/// What the link knows; `end` last of all.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub frozen: bool,
    pub end: Option<Result<Exit, Lost>>,
}

type Answer = oneshot::Sender<Result<(), SessionError>>;

/// A running (or just ended) session. Dropping it ends nothing.
#[derive(Debug)]
pub struct Session {
    dir: SessionDir,
    asks: mpsc::Sender<(Request, Answer)>,
    view: watch::Receiver<View>,
    stdin: Mutex<Option<UnixStream>>,
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link(JoinHandle<()>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts a program under a shim of its own. On return it has been executed.
///
/// Dropping the future may leave the session starting: adopt the directory to find out.
pub async fn launch(launch: Launch) -> Result<Session, LaunchError> {
    let machine = |what| move |source| LaunchError::Machine { what, source };
    let dir = SessionDir::new(&launch.dir);
    dir.create().map_err(machine("make the session's directory"))?;
    let Some(lock) = try_lock(&dir).map_err(machine("lock the session's directory"))? else { return Err(LaunchError::Busy(launch.dir)) };
    if dir.has_started() {
        return Err(LaunchError::Busy(launch.dir));
    }
    // Output is there to be read from the first moment, before the shim has got that far.
    for stream in [Stream::Stdout, Stream::Stderr] {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.stream(stream)).map_err(machine("make the transcripts"))?;
    }
    let held = lock.try_clone().map_err(machine("lock the session's directory"))?;
    let mut shim = tokio::process::Command::new(&launch.shim.program)
        .args(&launch.shim.args)
        .current_dir(&launch.dir)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // The lock travels as standard error: it is held without a gap, and no other child can inherit it.
        .stderr(held)
        .spawn()
        .map_err(machine("start the session's shim"))?;
    drop(lock);

    let params = Params {
        session: format!("{:032x}", hiveward_runtime::id::new_v7()),
        argv: launch.argv,
        env: launch.env,
        cwd: launch.cwd,
        stdin: launch.stdin,
        mode: launch.mode,
        limits: launch.limits,
        wall_ms: launch.wall.map(|wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)),
        grace_ms: u64::try_from(launch.grace.as_millis()).unwrap_or(u64::MAX),
        overflow: launch.overflow,
        linger_ms: 2000,
    };
    let told = async {
        let mut stdin = shim.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&serde_json::to_vec(&params)?).await?;
        drop(stdin);
        let mut line = Vec::new();
        // Read to the end, which comes at once: the shim lets go of its output after one line.
        shim.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.take(64 << 10).read_to_end(&mut line).await?;
        Ok::<_, io::Error>(serde_json::from_slice::<Launched>(&line)?)
    };
    match tokio::time::timeout(SHIM_PATIENCE, told).await.unwrap_or(Err(io::ErrorKind::TimedOut.into())) {
        Ok(Launched::Started { .. }) => {}
        Ok(Launched::Failed { message }) => {
            let _ = shim.wait().await;
            forget(&dir);
            return Err(LaunchError::Program(message));
        }
        Err(source) => {
            let _ = shim.start_kill();
            let _ = shim.wait().await;
            if let Some(started) = dir.started() {
                kill_orphans(&started).await;
            }
            let source = match std::fs::read_to_string(dir.lock()) {
                Ok(words) if !words.trim().is_empty() => io::Error::other(words.trim().to_owned()),
                _ => source,
            };
            forget(&dir);
            return Err(LaunchError::Machine { what: "start the session's shim", source });
        }
    }
    match adopt(&launch.dir).await.map_err(machine("reach the session's shim"))? {
        Adopted::Running(session) => Ok(session),
        Adopted::Ended(exit) => Ok(Session::ended(dir, Ok(exit))),
        Adopted::Lost | Adopted::NeverStarted => Ok(Session::ended(dir, Err(Lost))),
    }
}

/// Finds out what became of the session in `dir`, and takes it over if it runs. Kills what a lost shim left behind.
///
/// Errors: the directory or the shim's socket cannot be used; nothing is known then, and nothing was changed.
pub async fn adopt(dir: impl AsRef<Path>) -> io::Result<Adopted> {
    let dir = SessionDir::new(dir.as_ref());
    if !dir.path().is_dir() {
        return Ok(Adopted::NeverStarted);
    }
    let deadline = Deadline::after(SHIM_PATIENCE);
    loop {
        // Held until we have decided: nobody can start a session here meanwhile.
        if let Some(_lock) = try_lock(&dir)? {
            return Ok(match (dir.exit(), dir.started()) {
                (Some(exit), _) => Adopted::Ended(exit),
                (None, Some(started)) => {
                    kill_orphans(&started).await;
                    Adopted::Lost
                }
                (None, None) => Adopted::NeverStarted,
            });
        }
        match greet(&dir).await {
            Ok((socket, frozen)) => return Ok(Adopted::Running(Session::linked(dir, socket, frozen))),
            Err(error) if deadline.passed() => return Err(error),
            // It is just starting, or just going: look again.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Whether a shim holds this directory now.
pub fn is_held(dir: impl AsRef<Path>) -> bool {
    let dir = SessionDir::new(dir.as_ref());
    dir.path().is_dir() && matches!(try_lock(&dir), Ok(None))
}

/// The lock is let go when the last copy of the file is closed, never by an explicit unlock: a shim may have a copy.
fn try_lock(dir: &SessionDir) -> io::Result<Option<File>> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.lock())?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn forget(dir: &SessionDir) {
    // What cannot be removed is a few empty files; retention meets them again.
    let _ = std::fs::remove_dir_all(dir.path());
}

/// Kills everything a lost shim held, however it hid, and returns when nothing is left.
async fn kill_orphans(started: &Started) {
    for _ in 0..2000 {
        let mut alive = procs::marked(&started.session);
        for group in &started.cgroups {
            alive.extend(cgroup::members(group));
            cgroup::kill_all(group);
        }
        if alive.is_empty() {
            break;
        }
        procs::signal_all(&alive, nix::sys::signal::Signal::SIGKILL);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cgroup::remove_all(&started.cgroups);
}

async fn connect(dir: &SessionDir) -> io::Result<UnixStream> {
    // A socket's path may have 107 bytes; through /proc it is short however deep the data directory is.
    let handle = File::open(dir.path())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd())).await
}

async fn greet(dir: &SessionDir) -> io::Result<(Frames, bool)> {
    let mut frames = Frames { socket: connect(dir).await?, inbox: Vec::new() };
    let hello = tokio::time::timeout(SHIM_PATIENCE, frames.next()).await;
    match hello.unwrap_or(Err(io::ErrorKind::TimedOut.into()))? {
        Event::Hello { frozen, .. } => Ok((frames, frozen)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Events from a shim, one at a time. `next` may be dropped half-way.
#[derive(Debug)]
struct Frames {
    socket: UnixStream,
    inbox: Vec<u8>,
}

impl Frames {
    async fn next(&mut self) -> io::Result<Event> {
        loop {
            match wire::parse(&self.inbox).map_err(|_| io::ErrorKind::InvalidData)? {
                Some((KIND_EVENT, body, taken)) => {
                    let event = serde_json::from_slice(body)?;
                    self.inbox.drain(..taken);
                    return Ok(event);
                }
                Some(_) => return Err(io::ErrorKind::InvalidData.into()),
                None => {
                    if self.socket.read_buf(&mut self.inbox).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }
}

/// Follows one shim until its end is known.
async fn follow(dir: SessionDir, mut frames: Frames, mut asks: mpsc::Receiver<(Request, Answer)>, view: watch::Sender<View>) {
    let mut waiting: Vec<(u64, Answer)> = Vec::new();
    let mut last_id = 0;
    let end = loop {
        tokio::select! {
            event = frames.next() => match event {
                Ok(Event::Done { id, error }) => {
                    if let Some(at) = waiting.iter().position(|(waits, _)| *waits == id) {
                        let (_, answer) = waiting.swap_remove(at);
                        let _ = answer.send(error.map_or(Ok(()), |message| Err(SessionError::Refused(message))));
                    }
                }
                Ok(Event::Exited(exit)) => {
                    let leave = Ask { id: 0, request: Request::Leave };
                    // If that is lost, the shim goes by itself.
                    let _ = frames.socket.write_all(&wire::json_frame(KIND_REQUEST, &leave)).await;
                    break Ok(exit);
                }
                Ok(Event::Grew { .. }) => view.send_modify(|_| {}),
                Ok(Event::Hello { frozen, .. }) => view.send_modify(|view| view.frozen = frozen),
                Ok(Event::StdinTaken { .. }) => {}
                Err(_) => match Box::pin(adopt_again(&dir)).await {
                    Ok(again) => {
                        waiting.clear();
                        frames = again;
                    }
                    Err(end) => break end,
                },
            },
            Some((request, answer)) = asks.recv() => {
                last_id += 1;
                if let Request::Freeze(frozen) = request {
                    view.send_modify(|view| view.frozen = frozen);
                }
                let frame = wire::json_frame(KIND_REQUEST, &Ask { id: last_id, request });
                // A failed write shows as the end of events just after, and drops the answer.
                if frames.socket.write_all(&frame).await.is_ok() {
                    waiting.push((last_id, answer));
                }
            },
        }
    };
    view.send_modify(|view| view.end = Some(end));
}

/// The link broke: the end, or the same shim again.
async fn adopt_again(dir: &SessionDir) -> Result<Frames, Result<Exit, Lost>> {
    let deadline = Deadline::after(SHIM_PATIENCE);
    loop {
        if let Ok(Some(_lock)) = try_lock(dir) {
            if let Some(exit) = dir.exit() {
                return Err(Ok(exit));
            }
            if let Some(started) = dir.started() {
                kill_orphans(&started).await;
            }
            return Err(Err(Lost));
        }
        match greet(dir).await {
            Ok((frames, _)) => return Ok(frames),
            Err(_) if deadline.passed() || !dir.path().is_dir() => return Err(Err(Lost)),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

impl Session {
    fn linked(dir: SessionDir, frames: Frames, frozen: bool) -> Self {
        let (asks, receiver) = mpsc::channel(ASKS_WAITING_MAX);
        let (sender, view) = watch::channel(View { frozen, end: None });
        let link = Link(tokio::spawn(follow(dir.clone(), frames, receiver, sender)));
        Self { dir, asks, view, stdin: Mutex::new(None), link: Arc::new(link) }
    }

    fn ended(dir: SessionDir, end: Result<Exit, Lost>) -> Self {
        let (asks, _) = mpsc::channel(1);
        let (_, view) = watch::channel(View { frozen: false, end: Some(end) });
        Self { dir, asks, view, stdin: Mutex::new(None), link: Arc::new(Link(tokio::spawn(async {}))) }
    }

    /// A session that has ended, to read what it left.
    pub fn after(dir: impl AsRef<Path>, exit: Exit) -> Self {
        Self::ended(SessionDir::new(dir.as_ref()), Ok(exit))
    }

    pub fn dir(&self) -> &SessionDir {
        &self.dir
    }

    /// The end, once there is one. May be called any number of times, by any number of callers.
    pub async fn wait(&self) -> Result<Exit, Lost> {
        let mut view = self.view.clone();
        match view.wait_for(|view| view.end.is_some()).await {
            Ok(view) => view.end.clone().unwrap_or(Err(Lost)),
            Err(_) => self.dir.exit().ok_or(Lost),
        }
    }

    pub fn has_ended(&self) -> bool {
        self.view.borrow().end.is_some()
    }

    pub fn is_frozen(&self) -> bool {
        self.view.borrow().frozen
    }

    /// What follows byte `offset` of one stream.
    pub fn tail(&self, stream: Stream, offset: u64) -> io::Result<Tail> {
        Tail::open(&self.dir, stream, offset, self.view.clone())
    }

    /// SIGINT to the group, `grace`, SIGTERM, `grace`, SIGKILL of everything; kept by the shim even if we go. Returns
    /// at once; [`wait`](Self::wait) for the end. A process that has ended already is fine.
    pub async fn stop(&self, grace: Duration) -> Result<(), SessionError> {
        self.ask(Request::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }).await
    }

    /// SIGKILL of everything the session holds.
    pub async fn kill(&self) -> Result<(), SessionError> {
        self.ask(Request::Kill).await
    }

    /// A signal to the process group.
    pub async fn signal(&self, signal: i32) -> Result<(), SessionError> {
        self.ask(Request::Signal(signal)).await
    }

    /// Stops every process of the session in its tracks, or lets it go on.
    pub async fn freeze(&self, frozen: bool) -> Result<(), SessionError> {
        self.ask(Request::Freeze(frozen)).await
    }

    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), SessionError> {
        self.ask(Request::Resize { cols, rows }).await
    }

    /// Says that stdout up to `offset` is dealt with; see [`Overflow::Wait`].
    pub async fn consumed(&self, offset: u64) -> Result<(), SessionError> {
        self.ask(Request::Consumed(offset)).await
    }

    pub async fn close_stdin(&self) -> Result<(), SessionError> {
        self.ask(Request::CloseStdin).await
    }

    async fn ask(&self, request: Request) -> Result<(), SessionError> {
        let (answer, answered) = oneshot::channel();
        self.asks.send((request, answer)).await.map_err(|_| SessionError::Ended)?;
        answered.await.unwrap_or(Err(SessionError::Ended))
    }

    /// Becomes the one writer of standard input; whoever was it before is cut off. When this returns, the tags in
    /// [`SessionDir::accepted`] are all that the process has got or will get from others.
    pub async fn claim_stdin(&self) -> Result<(), SessionError> {
        let mut held = self.stdin.lock().await;
        self.open_stdin(&mut held).await
    }

    async fn open_stdin(&self, held: &mut Option<UnixStream>) -> Result<(), SessionError> {
        let mut frames = greet(&self.dir).await.map_err(|_| SessionError::Ended)?.0;
        let ask = Ask { id: 1, request: Request::OpenStdin };
        frames.socket.write_all(&wire::json_frame(KIND_REQUEST, &ask)).await.map_err(|_| SessionError::Ended)?;
        loop {
            match frames.next().await.map_err(|_| SessionError::Ended)? {
                Event::Done { error: None, .. } => break,
                Event::Done { error: Some(message), .. } => return Err(SessionError::Refused(message)),
                _ => {}
            }
        }
        *held = Some(frames.socket);
        Ok(())
    }

    /// Hands over one piece of standard input, whole or not at all. Returns when the shim has taken it; waits while
    /// the process reads slowly. A `tag` is recorded with it. Dropping the future leaves it unknown whether it was taken.
    pub async fn write_stdin(&self, bytes: &[u8], tag: &str) -> Result<(), SessionError> {
        if bytes.len() > STDIN_BYTES_MAX || tag.len() > TAG_BYTES_MAX {
            return Err(SessionError::TooLong);
        }
        let mut held = self.stdin.lock().await;
        if held.is_none() {
            self.open_stdin(&mut held).await?;
        }
        // Taken out: if this future is dropped half-way, the broken connection goes with it and is made anew.
        let socket = held.take().ok_or(SessionError::Ended)?;
        let mut frames = Frames { socket, inbox: Vec::new() };
        let mut body = Vec::with_capacity(1 + tag.len() + bytes.len());
        body.push(u8::try_from(tag.len()).unwrap_or(0));
        body.extend_from_slice(tag.as_bytes());
        body.extend_from_slice(bytes);
        frames.socket.write_all(&wire::frame(KIND_STDIN, &body)).await.map_err(|_| SessionError::Ended)?;
        let error = loop {
            if let Event::StdinTaken { error } = frames.next().await.map_err(|_| SessionError::Ended)? {
                break error;
            }
        };
        // A partial event left in the buffer would be lost with it; such a connection is not used again.
        *held = frames.inbox.is_empty().then_some(frames.socket);
        error.map_or(Ok(()), |message| Err(SessionError::Refused(message)))
    }

    /// Kills what runs, waits for its end and removes the directory with everything in it.
    pub async fn remove(self) -> io::Result<()> {
        // Refused only when it has ended.
        let _ = self.kill().await;
        let _ = self.wait().await;
        drop(self.link);
        std::fs::remove_dir_all(self.dir.path())
    }
}
