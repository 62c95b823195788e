//! One host of a node by libvirt: asked on standard input, answered on standard output.
//!
//! Owns the connections. Keeps nothing: what is there libvirt knows. Ends when its standard input does, so it never outlives
//! its node, and with it every call that hangs in C. Its calls block, on a bounded pool of threads.

mod backup;
mod checkpoint;
mod connections;
mod console;
mod domain;
mod guest;
mod migrate;
mod network;
mod overlay;
mod place;
#[path = "../../catalogue/src/host/protocol.rs"]
mod protocol;
mod seed;
mod shape;
mod snapshot;
mod store;
mod sys;

use std::{io::{self, Read, Write}, process::ExitCode, sync::{Arc, Mutex, mpsc::{self, Receiver, SyncSender}}, thread};

use domain::{Host, Site};
use protocol::{DriverAnswer, Call, FRAME_BYTES_MAX, Problem, Request, Said, VERSION};
use store::Store;

/// Calls at the same time; more wait.
const WORKERS: usize = 16;
/// Asked and not begun; the node asks no more at once than this.
const REQUESTS_MAX: usize = 256;
/// Said and not written; events beyond it become one that says that something has changed.
const SAID_MAX: usize = 1_024;

fn main() -> ExitCode {
    let (said, saying) = mpsc::sync_channel(SAID_MAX);
    sys::quiet();
    thread::spawn(move || write(&saying));
    match serve(&said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hiveward-libvirt-driver: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Until the node says no more.
fn serve(said: &SyncSender<Said>) -> io::Result<()> {
    let mut stdin = io::stdin().lock();
    let Some(first) = read(&mut stdin)? else { return Ok(()) };
    let site = match open(&first.call, said) {
        Ok(opened) => {
            answer(said, first.id, Ok(DriverAnswer::Opened));
            opened
        }
        Err(problem) => {
            answer(said, first.id, Err(problem));
            // Nothing else can be asked; the node ends this.
            while read(&mut stdin)?.is_some() {}
            return Ok(());
        }
    };
    let (asked, asking) = mpsc::sync_channel::<Request>(REQUESTS_MAX);
    // It lives as long as the process does.
    let (asking, site): (_, &'static Site) = (Arc::new(Mutex::new(asking)), Box::leak(Box::new(site)));
    for _ in 0..WORKERS {
        let (asking, said) = (asking.clone(), said.clone());
        thread::spawn(move || work(&asking, site, &said));
    }
    while let Some(request) = read(&mut stdin)? {
        if asked.send(request).is_err() {
            break;
        }
    }
    // Whatever hangs in C ends here as well; nothing is closed in order, because that might hang too.
    std::process::exit(0)
}

fn open(call: &Call, said: &SyncSender<Said>) -> Result<Site, Problem> {
    let Call::Open { version, uri, owner, pool } = call else {
        return Err(Problem::Refused("the first call opens the connection".into()));
    };
    if *version != VERSION {
        return Err(Problem::Refused(format!("this driver speaks version {VERSION}, the node {version}; install them together")));
    }
    sys::start_events(said.clone()).map_err(Problem::Failed)?;
    let connection = connections::open(uri, connections::KEEPALIVE)?;
    sys::listen(&connection).map_err(Problem::Failed)?;
    Site::new(connection, uri, owner.clone(), Store::new(pool.clone(), owner))
}

fn work(asking: &Mutex<Receiver<Request>>, site: &'static Site, said: &SyncSender<Said>) {
    loop {
        let next = match asking.lock() {
            Ok(asking) => asking.recv(),
            Err(_) => return,
        };
        let Ok(Request { id, call, .. }) = next else { return };
        let result = site.host().and_then(|host| done(&host, call, said));
        answer(said, id, result);
    }
}

fn done(host: &Host, call: Call, said: &SyncSender<Said>) -> Result<DriverAnswer, Problem> {
    match call {
        Call::Open { .. } => Err(Problem::Refused("it is open already".into())),
        Call::Capacity => domain::capacity(&host.connection),
        Call::List => domain::list(host, true),
        Call::Glance => domain::list(host, false),
        Call::Adopt { vms } => {
            host.adopt(vms);
            Ok(DriverAnswer::Done)
        }
        Call::Act { vm, step } => domain::act(host, &vm, step).map(DriverAnswer::Domain),
        Call::Guest { vm } => guest::ask(host, &vm).map(DriverAnswer::Guest),
        Call::GuestCommand { vm, command } => guest::say(host, &vm, &command).map(DriverAnswer::GuestCommand),
        Call::Migrate { vm, move_ } => migrate::migrate(host, &vm, &move_).map(DriverAnswer::Migrated),
        Call::Job { vm } => migrate::job(host, &vm).map(DriverAnswer::Job),
        Call::Abort { vm } => migrate::abort(host, &vm).map(|()| DriverAnswer::Done),
        Call::Console { vm, turn } => console::open(host, &vm, turn, said).map(|()| DriverAnswer::Done),
        Call::Type { vm, bytes } => console::type_(host, &vm, &bytes).map(|()| DriverAnswer::Done),
        Call::Backup { vm, dir, only, marks } => backup::backup(host, &vm, &dir, only.as_deref(), &marks).map(DriverAnswer::BackedUp),
        Call::EnsureNetworks { networks } => network::ensure(host, &networks).map(|()| DriverAnswer::Done),
        Call::SweepNetworks { keep } => network::sweep(host, &keep).map(|()| DriverAnswer::Done),
        Call::Sweep { keep } => host.store.sweep(&host.connection, &keep).map(|()| DriverAnswer::Done),
    }
}

fn answer(said: &SyncSender<Said>, id: u64, result: Result<DriverAnswer, Problem>) {
    // Nobody writes any more: this process ends.
    let _ = said.send(Said::Answer { id, result });
}

/// `None` at the end of the input.
fn read(from: &mut impl Read) -> io::Result<Option<Request>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::other(format!("a frame of {length} bytes is too long")));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    rmp_serde::from_slice(&frame).map(Some).map_err(io::Error::other)
}

fn write(saying: &Receiver<Said>) {
    let mut stdout = io::stdout().lock();
    let mut put = |said: &Said| -> io::Result<()> {
        let frame = rmp_serde::to_vec_named(said).map_err(io::Error::other)?;
        let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
        stdout.write_all(&length.to_le_bytes())?;
        stdout.write_all(&frame)?;
        stdout.flush()
    };
    while let Ok(said) = saying.recv() {
        let over = matches!(said, Said::Closed { .. });
        let missed = sys::take_missed();
        if put(&said).is_err() || (missed && put(&Said::Changed { vm: None }).is_err()) || over {
            std::process::exit(i32::from(!over));
        }
    }
}
