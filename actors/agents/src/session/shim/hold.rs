//! The shim's loop: one thread, one `poll`, nothing that blocks but writing transcripts.

use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use hiveward_runtime::clock::WallMs;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{signal::Signal, signalfd::SignalFd, wait::WaitStatus},
};

use super::{
    super::{
        Stream,
        cgroup::Cgroups,
        layout::Exit,
        owner,
        wire::{Ask, Event, KIND_REQUEST, KIND_STDIN, Request, STDIN_BYTES_MAX, parse},
    },
    accepted,
    clients::Client,
    end::HOME_LOOK,
    kill::{Power, SWEEP, Stopping, WATCH},
    lease::NodeLease,
    output::Transcripts,
    spawn::{Spawned, resize},
};

const CLIENTS_MAX: usize = 16;
/// Time until a failed write to disk is tried again. The process waits meanwhile: its pipe is full.
pub(super) const DISK_RETRY: Duration = Duration::from_millis(200);
/// Time for a client that was told of the end and neither leaves nor closes.
const LINGER_MAX: Duration = Duration::from_secs(600);

pub(super) struct Limits {
    pub wall_ms: Option<u64>,
    pub grace_ms: u64,
    pub linger_ms: u64,
    /// Lock whose holder may speak to this session.
    pub owner: Option<PathBuf>,
    /// File in which the lease is told of that the program ends with.
    pub lease: Option<PathBuf>,
    /// See [`Launch::keeps`](crate::session::launch::Launch).
    pub keeps: Option<PathBuf>,
    /// Bytes of memory, only where no cgroup holds it.
    pub memory_bytes: Option<u64>,
}

pub(super) struct Output {
    stream: Stream,
    fd: OwnedFd,
    /// Output that was read, and refused by the disk so far.
    pub(super) pending: Vec<u8>,
}

pub(super) struct Shim {
    pub(super) power: Power,
    pub(super) transcripts: Transcripts,
    listener: UnixListener,
    signals: SignalFd,
    pub(super) limits: Limits,
    pub(super) clients: Vec<Client>,
    pub(super) outputs: Vec<Output>,
    stdin: Option<OwnedFd>,
    stdin_queue: Vec<u8>,
    close_stdin: bool,
    pty: Option<OwnedFd>,
    buffer: Vec<u8>,
    pub(super) status: Option<WaitStatus>,
    pub(super) ended_since: Option<Instant>,
    pub(super) exit: Option<Exit>,
    pub(super) recorded_since: Option<Instant>,
    wall_deadline: Option<Instant>,
    frozen_since: Option<Instant>,
    stopping: Option<Stopping>,
    next_watch: Instant,
    pub(super) disk_retry: Option<Instant>,
    pub(super) timed_out: bool,
    pub(super) stopped: bool,
    lease: Option<NodeLease>,
    pub(super) lease_over: bool,
    pub(super) memory_kill: bool,
    leave: bool,
    pub(super) next_home_look: Instant,
    /// Whether its directory is gone, and with it everything that was still to do.
    pub(super) homeless: bool,
}

impl Shim {
    pub(super) fn new(
        spawned: Spawned,
        cgroups: Cgroups,
        transcripts: Transcripts,
        listener: UnixListener,
        signals: SignalFd,
        limits: Limits,
    ) -> Self {
        let mut outputs = vec![Output { stream: Stream::Stdout, fd: spawned.stdout, pending: Vec::new() }];
        outputs.extend(spawned.stderr.map(|fd| Output { stream: Stream::Stderr, fd, pending: Vec::new() }));
        Self {
            power: Power { cgroups, leader: spawned.child.id().cast_signed() },
            transcripts,
            listener,
            signals,
            clients: Vec::new(),
            outputs,
            stdin: spawned.stdin,
            stdin_queue: Vec::new(),
            close_stdin: false,
            pty: spawned.pty,
            buffer: vec![0; 64 << 10],
            status: None,
            ended_since: None,
            exit: None,
            recorded_since: None,
            wall_deadline: limits.wall_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
            frozen_since: None,
            stopping: None,
            next_watch: Instant::now(),
            disk_retry: None,
            timed_out: false,
            stopped: false,
            lease: limits.lease.clone().map(|dir| NodeLease::new(dir, Instant::now())),
            lease_over: false,
            memory_kill: false,
            leave: false,
            next_home_look: Instant::now() + HOME_LOOK,
            homeless: false,
            limits,
        }
    }

    pub(super) fn run(mut self) {
        while !self.may_go() {
            self.wait();
            self.reap();
            self.timers();
        }
    }

    fn may_go(&self) -> bool {
        if self.homeless {
            return true;
        }
        let Some(since) = self.recorded_since else { return false };
        let told = self.clients.iter().all(|client| !client.wants_write());
        let linger = Duration::from_millis(self.limits.linger_ms);
        (self.leave && told) || (self.clients.is_empty() && since.elapsed() >= linger) || since.elapsed() >= LINGER_MAX
    }

    /// Waits in one `poll`, and does what that brought.
    fn wait(&mut self) {
        let timeout = self.timeout();
        let reading = self.transcripts.has_room() || self.status.is_some();
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.push(PollFd::new(
            self.listener.as_fd(),
            if self.clients.len() < CLIENTS_MAX { PollFlags::POLLIN } else { PollFlags::empty() },
        ));
        let stdin_at = fds.len();
        if let Some(fd) = self.stdin.as_ref().filter(|_| !self.stdin_queue.is_empty()) {
            fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
        }
        let outputs_at = fds.len();
        for output in self.outputs.iter().filter(|output| reads(output, reading)) {
            fds.push(PollFd::new(output.fd.as_fd(), PollFlags::POLLIN));
        }
        let clients_at = fds.len();
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, client.wants_read());
            flags.set(PollFlags::POLLOUT, client.wants_write());
            fds.push(PollFd::new(client.socket.as_fd(), flags));
        }
        if poll(&mut fds, timeout).is_err() {
            return;
        }
        let ready: Vec<PollFlags> = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(fds);

        while let Ok(Some(_)) = self.signals.read_signal() {}
        if stdin_at < outputs_at && !ready[stdin_at].is_empty() {
            self.feed();
        }
        let readable: Vec<Stream> = self
            .outputs
            .iter()
            .filter(|output| reads(output, reading))
            .zip(&ready[outputs_at..clients_at])
            .filter(|(_, r)| !r.is_empty())
            .map(|(o, _)| o.stream)
            .collect();
        for stream in readable {
            self.read_output(stream);
        }
        let lengths = self.transcripts.lengths();
        for (i, ready) in ready[clients_at..].iter().enumerate() {
            if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
                && (self.clients[i].wants_read() || !ready.contains(PollFlags::POLLIN))
            {
                let client = &mut self.clients[i];
                client.receive(&mut self.buffer);
                // What a vanished node had not finished sending is forgotten with it; whole frames still count.
                self.serve(i);
            }
            if ready.contains(PollFlags::POLLOUT) {
                self.clients[i].flush(lengths);
            }
        }
        self.clients.retain(|client| !client.gone);
        if ready[1].contains(PollFlags::POLLIN) {
            self.accept();
        }
    }

    fn timeout(&self) -> PollTimeout {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut at_latest = |at: Option<Instant>| next = [next, at].into_iter().flatten().min();
        if let Some(recorded) = self.recorded_since {
            let linger = Duration::from_millis(self.limits.linger_ms);
            at_latest(Some(recorded + if self.clients.is_empty() { linger } else { LINGER_MAX }));
        } else {
            at_latest(self.disk_retry);
            if self.status.is_some() {
                at_latest(Some(now + SWEEP).filter(|_| self.disk_retry.is_none()));
            } else {
                at_latest(self.stopping.map(|stopping| stopping.at));
                at_latest(self.wall_deadline.filter(|_| self.frozen_since.is_none() && self.stopping.is_none()));
                at_latest(self.lease.as_ref().map(|lease| lease.next_look));
                at_latest(self.limits.memory_bytes.map(|_| self.next_watch));
            }
        }
        at_latest(Some(self.next_home_look));
        match next {
            None => PollTimeout::NONE,
            // Rounded up: a timeout that fires early would spin.
            Some(at) => {
                PollTimeout::try_from(at.saturating_duration_since(now) + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
        }
    }

    fn accept(&mut self) {
        if let Ok((socket, _)) = self.listener.accept()
            && socket.set_nonblocking(true).is_ok()
        {
            let refused = self.limits.owner.as_ref().and_then(|lock| owner::refuses(&socket, lock));
            let mut client = Client::new(socket);
            if let Some(why) = refused {
                // Told as far as the socket takes it now, and let go of: nothing that it says is read.
                client.tell(&Event::Done { id: 0, error: Some(why) });
                client.flush(self.transcripts.lengths());
                return;
            }
            client.tell(&Event::Hello { pid: self.power.leader, frozen: self.frozen_since.is_some() });
            if let Some(exit) = &self.exit {
                client.tell(&Event::Exited(exit.clone()));
            }
            self.clients.push(client);
        }
    }

    /// Handles every whole frame that a client has sent.
    fn serve(&mut self, i: usize) {
        loop {
            let (kind, body, taken) = match parse(self.clients[i].inbox()) {
                Ok(Some(frame)) => (frame.kind, frame.body.to_vec(), frame.len),
                Ok(None) => return,
                Err(_) => {
                    self.clients[i].gone = true;
                    return;
                }
            };
            if kind == KIND_STDIN && self.stdin_queue.len() + body.len() > STDIN_BYTES_MAX && !self.stdin_queue.is_empty() {
                self.clients[i].blocked = true;
                return;
            }
            self.clients[i].taken(taken);
            match kind {
                KIND_STDIN => {
                    let error = self.take_stdin(i, &body).err();
                    self.clients[i].tell(&Event::StdinTaken { error });
                }
                KIND_REQUEST => match serde_json::from_slice::<Ask>(&body) {
                    Ok(ask) => {
                        let error = self.request(i, ask.request).err();
                        self.clients[i].tell(&Event::Done { id: ask.id, error });
                    }
                    Err(_) => self.clients[i].gone = true,
                },
                _ => self.clients[i].gone = true,
            }
        }
    }

    fn take_stdin(&mut self, i: usize, body: &[u8]) -> Result<(), String> {
        if !self.clients[i].holds_stdin {
            return Err("another connection holds the standard input".to_owned());
        }
        if self.stdin.is_none() || self.close_stdin {
            return Err("the standard input is closed".to_owned());
        }
        let (tag, data) =
            body.split_first().and_then(|(len, rest)| rest.split_at_checked(usize::from(*len))).ok_or("a frame without a tag")?;
        if !tag.is_empty() {
            accepted::record(tag).map_err(|e| format!("cannot record what was taken: {e}"))?;
        }
        self.stdin_queue.extend_from_slice(data);
        self.feed();
        Ok(())
    }

    fn request(&mut self, i: usize, request: Request) -> Result<(), String> {
        if self.status.is_some() && !matches!(request, Request::Leave | Request::Consumed(_)) {
            return Err("the process has ended".to_owned());
        }
        match request {
            Request::Stop { grace_ms } => {
                self.stopped = true;
                self.stop(Duration::from_millis(grace_ms));
            }
            Request::Kill => {
                self.stopped = true;
                self.power.kill_everything();
            }
            Request::Signal(number) => {
                self.power.signal_group(Signal::try_from(number).map_err(|_| format!("there is no signal {number}"))?)
            }
            Request::Freeze(frozen) => self.freeze(frozen),
            Request::Resize { cols, rows } => {
                let pty = self.pty.as_ref().ok_or("the session has no terminal")?;
                resize(pty, cols, rows).map_err(|e| e.to_string())?;
            }
            Request::Consumed(stdout) => self.transcripts.consumed(stdout),
            Request::OpenStdin => {
                for (other, client) in self.clients.iter_mut().enumerate() {
                    client.gone |= other != i && client.holds_stdin;
                }
                self.clients[i].holds_stdin = true;
            }
            Request::CloseStdin => {
                self.close_stdin = true;
                self.feed();
            }
            Request::ForgetAccepted(tags) => accepted::forget(&tags).map_err(|e| e.to_string())?,
            Request::Leave => self.leave = self.exit.is_some(),
        }
        Ok(())
    }

    fn stop(&mut self, grace: Duration) {
        self.freeze(false);
        if grace.is_zero() {
            return self.power.kill_everything();
        }
        // A second, shorter stop takes the place of the first.
        if self.stopping.is_none() {
            self.power.signal_group(Signal::SIGINT);
            self.power.signal_group(Signal::SIGCONT);
            self.stopping = Some(Stopping { next: Signal::SIGTERM, at: Instant::now() + grace, grace });
        } else if let Some(stopping) = &mut self.stopping {
            stopping.grace = stopping.grace.min(grace);
            stopping.at = stopping.at.min(Instant::now() + grace);
        }
    }

    fn freeze(&mut self, frozen: bool) {
        match (frozen, self.frozen_since.take()) {
            (true, since) => {
                self.power.freeze(true);
                self.frozen_since = since.or(Some(Instant::now()));
            }
            (false, Some(since)) => {
                self.power.freeze(false);
                // Time frozen is not time used.
                self.wall_deadline = self.wall_deadline.map(|deadline| deadline + since.elapsed());
            }
            (false, None) => {}
        }
    }

    /// Writes what the process takes of its standard input now.
    fn feed(&mut self) {
        if let Some(fd) = &self.stdin {
            while !self.stdin_queue.is_empty() {
                match nix::unistd::write(fd, &self.stdin_queue) {
                    Ok(n) => drop(self.stdin_queue.drain(..n)),
                    Err(Errno::EAGAIN) => return,
                    Err(Errno::EINTR) => {}
                    Err(_) => {
                        self.stdin_queue = Vec::new();
                        self.stdin = None;
                        break;
                    }
                }
            }
        }
        if self.close_stdin
            && self.stdin_queue.is_empty()
            && let Some(fd) = self.stdin.take()
            && self.pty.is_some()
        {
            // A terminal is not closed but told: end of transmission.
            let _ = nix::unistd::write(&fd, &[4]);
        }
        if self.stdin_queue.is_empty() {
            self.stdin_queue = Vec::new();
        }
        for i in 0..self.clients.len() {
            if self.clients[i].blocked && self.stdin_queue.is_empty() {
                self.clients[i].blocked = false;
                self.serve(i);
            }
        }
    }

    /// Reads once; `false` when there is nothing to read now or ever.
    pub(super) fn read_output(&mut self, stream: Stream) -> bool {
        let Some(at) = self.outputs.iter().position(|output| output.stream == stream) else { return false };
        let output = &mut self.outputs[at];
        if !output.pending.is_empty() {
            return false;
        }
        match nix::unistd::read(&output.fd, &mut self.buffer) {
            // A pty says EIO when its last user has gone.
            Ok(0) | Err(Errno::EIO) => {
                self.outputs.remove(at);
                false
            }
            Ok(n) => {
                if self.transcripts.append(stream, &self.buffer[..n], WallMs::now()).is_err() {
                    output.pending = self.buffer[..n].to_vec();
                    self.disk_retry = Some(Instant::now() + DISK_RETRY);
                }
                for client in &mut self.clients {
                    client.stale = true;
                }
                output.pending.is_empty()
            }
            Err(Errno::EINTR) => true,
            Err(Errno::EAGAIN) => false,
            Err(_) => {
                self.outputs.remove(at);
                false
            }
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        self.look_home(now);
        if self.disk_retry.is_some_and(|at| at <= now) {
            self.disk_retry = None;
            for output in &mut self.outputs {
                let pending = std::mem::take(&mut output.pending);
                if !pending.is_empty() && self.transcripts.append(output.stream, &pending, WallMs::now()).is_err() {
                    output.pending = pending;
                    self.disk_retry = Some(now + DISK_RETRY);
                }
            }
        }
        if self.status.is_some() {
            return;
        }
        if self.wall_deadline.is_some_and(|at| at <= now) && self.frozen_since.is_none() && self.stopping.is_none() {
            self.wall_deadline = None;
            self.timed_out = true;
            self.stop(Duration::from_millis(self.limits.grace_ms));
        }
        if let Some(stopping) = self.stopping.filter(|stopping| stopping.at <= now) {
            if stopping.next == Signal::SIGTERM {
                self.power.signal_group(Signal::SIGTERM);
                self.power.signal_group(Signal::SIGCONT);
                self.stopping = Some(Stopping { next: Signal::SIGKILL, at: now + stopping.grace, ..stopping });
            } else {
                self.power.kill_everything();
                self.stopping = Some(Stopping { at: now + SWEEP, ..stopping });
            }
        }
        if self.lease.as_mut().is_some_and(|lease| lease.is_over(now)) {
            self.lease_over = true;
            self.power.kill_everything();
        }
        if let Some(max) = self.limits.memory_bytes
            && self.next_watch <= now
        {
            self.next_watch = now + WATCH;
            if self.power.rss_bytes() > max {
                self.memory_kill = true;
                self.power.kill_everything();
            }
        }
    }
}

fn reads(output: &Output, room: bool) -> bool {
    output.pending.is_empty() && (room || output.stream == Stream::Stderr)
}
