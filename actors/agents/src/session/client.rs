//! The node's side of a session: speaks with its shim.
//!
//! A [`Session`] is a view, not an owner: dropping it lets the process run on under its shim. Its one task follows the
//! shim's socket and ends with it.

use std::{fs::File, io, os::fd::AsRawFd, path::Path, sync::Arc, time::Duration};

use hiveward_runtime::clock::Deadline;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Mutex, mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    Stream,
    launch::{SHIM_PATIENCE, kill_orphans, try_lock},
    layout::{Exit, SOCKET, SessionDir},
    tail::Tail,
    wire::{self, Ask, Event, KIND_EVENT, KIND_REQUEST, KIND_STDIN, Request, STDIN_BYTES_MAX, TAG_BYTES_MAX},
};

const ASKS_WAITING_MAX: usize = 16;

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

/// What the link knows; `end` last of all.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub frozen: bool,
    pub end: Option<Result<Exit, Lost>>,
}

type SessionReply = oneshot::Sender<Result<(), SessionError>>;

/// A running (or just ended) session. Dropping it ends nothing.
#[derive(Debug)]
pub struct Session {
    dir: SessionDir,
    pid: Option<i32>,
    asks: mpsc::Sender<(Request, SessionReply)>,
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

async fn connect(dir: &SessionDir) -> io::Result<UnixStream> {
    // A socket's path may have 107 bytes; through /proc it is short however deep the data directory is.
    let handle = File::open(dir.path())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd())).await
}

/// What a shim says of itself when it is greeted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeted {
    pub pid: i32,
    pub frozen: bool,
}

pub(super) async fn greet(dir: &SessionDir) -> io::Result<(Frames, Greeted)> {
    let mut frames = Frames { socket: connect(dir).await?, inbox: Vec::new() };
    let hello = tokio::time::timeout(SHIM_PATIENCE, frames.next()).await;
    match hello.unwrap_or(Err(io::ErrorKind::TimedOut.into()))? {
        Event::Hello { pid, frozen } => Ok((frames, Greeted { pid, frozen })),
        Event::Done { error: Some(why), .. } => Err(io::Error::new(io::ErrorKind::PermissionDenied, why)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Events from a shim, one at a time. `next` may be dropped half-way.
#[derive(Debug)]
pub(super) struct Frames {
    socket: UnixStream,
    inbox: Vec<u8>,
}

impl Frames {
    async fn next(&mut self) -> io::Result<Event> {
        loop {
            match wire::parse(&self.inbox).map_err(|_| io::ErrorKind::InvalidData)? {
                Some(frame) if frame.kind == KIND_EVENT => {
                    let (event, len) = (serde_json::from_slice(frame.body)?, frame.len);
                    self.inbox.drain(..len);
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
async fn follow(
    dir: SessionDir,
    mut frames: Frames,
    mut asks: mpsc::Receiver<(Request, SessionReply)>,
    view: watch::Sender<View>,
) {
    let mut waiting: Vec<(u64, SessionReply)> = Vec::new();
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

/// Finds the shim again after the link broke: returns a new link, or how the session ended.
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
    pub(super) fn linked(dir: SessionDir, frames: Frames, Greeted { pid, frozen }: Greeted) -> Self {
        let (asks, receiver) = mpsc::channel(ASKS_WAITING_MAX);
        let (sender, view) = watch::channel(View { frozen, end: None });
        let link = Link(tokio::spawn(follow(dir.clone(), frames, receiver, sender)));
        Self { dir, pid: Some(pid), asks, view, stdin: Mutex::new(None), link: Arc::new(link) }
    }

    pub(super) fn ended(dir: SessionDir, end: Result<Exit, Lost>) -> Self {
        let (asks, _) = mpsc::channel(1);
        let (_, view) = watch::channel(View { frozen: false, end: Some(end) });
        Self { dir, pid: None, asks, view, stdin: Mutex::new(None), link: Arc::new(Link(tokio::spawn(async {}))) }
    }

    /// Returns a session that has ended, to read what it left.
    pub fn after(dir: impl AsRef<Path>, exit: Exit) -> Self {
        Self::ended(SessionDir::new(dir.as_ref()), Ok(exit))
    }

    /// Returns the session's directory.
    pub fn dir(&self) -> &SessionDir {
        &self.dir
    }

    /// Returns the program's own process; `None` if it had ended when this was made.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Waits for the end and returns it. May be called any number of times, by any number of callers; dropping the future loses
    /// nothing.
    pub async fn wait(&self) -> Result<Exit, Lost> {
        let mut view = self.view.clone();
        match view.wait_for(|view| view.end.is_some()).await {
            Ok(view) => view.end.clone().unwrap_or(Err(Lost)),
            Err(_) => self.dir.exit().ok_or(Lost),
        }
    }

    /// Tells whether the session is known to have ended.
    pub fn has_ended(&self) -> bool {
        self.view.borrow().end.is_some()
    }

    /// Tells whether the session is frozen, as its shim said last.
    pub fn is_frozen(&self) -> bool {
        self.view.borrow().frozen
    }

    /// Returns what follows byte `offset` of one stream.
    pub fn tail(&self, stream: Stream, offset: u64) -> io::Result<Tail> {
        Tail::open(&self.dir, stream, offset, self.view.clone())
    }

    /// Has the shim stop the process: SIGINT to the group, `grace`, SIGTERM, `grace`, SIGKILL of everything; the shim keeps to
    /// that even if we go. Returns at once; [`wait`](Self::wait) for the end. A process that has ended already is fine.
    pub async fn stop(&self, grace: Duration) -> Result<(), SessionError> {
        self.ask(Request::Stop { grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX) }).await
    }

    /// Sends SIGKILL to everything that the session holds.
    pub async fn kill(&self) -> Result<(), SessionError> {
        self.ask(Request::Kill).await
    }

    /// Sends a signal to the process group.
    pub async fn signal(&self, signal: i32) -> Result<(), SessionError> {
        self.ask(Request::Signal(signal)).await
    }

    /// Stops every process of the session in its tracks, or lets it go on.
    pub async fn freeze(&self, frozen: bool) -> Result<(), SessionError> {
        self.ask(Request::Freeze(frozen)).await
    }

    /// Sets the size of the terminal, in columns and rows.
    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), SessionError> {
        self.ask(Request::Resize { cols, rows }).await
    }

    /// Says that stdout up to `offset` is dealt with; see [`Overflow::Wait`].
    pub async fn consumed(&self, offset: u64) -> Result<(), SessionError> {
        self.ask(Request::Consumed(offset)).await
    }

    /// Drops tags from [`SessionDir::accepted`]: nobody will ask again whether the process got them.
    pub async fn forget_accepted(&self, tags: Vec<String>) -> Result<(), SessionError> {
        self.ask(Request::ForgetAccepted(tags)).await
    }

    /// Closes the process's standard input.
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
