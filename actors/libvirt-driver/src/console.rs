//! Serial consoles: each that is listened to has a thread of its own, until its domain or this process ends.
//!
//! They share a connection of their own. Each waits for its stream all the time, so what is asked there besides may be sent with
//! the next keepalive only, for the reason that [`connections`] gives.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
};

use virt::{connect::Connect, stream::Stream};

use crate::{
    connections,
    domain::{Host, find, problem},
    protocol::{Problem, Said},
};

/// At once. The node asks for no more.
const CONSOLES_MAX: usize = 256;
const PIECE_BYTES: usize = 4 << 10;
const STACK_BYTES: usize = 256 << 10;
/// Every second: what is typed comes no later than that.
const KEEPALIVE: (i32, u32) = (1, 15);

struct Listened {
    /// Of its domain, which has another number each time that it is started.
    run: Option<u32>,
    /// Under which the node asked for it last.
    turn: u64,
    stream: Stream,
}

pub struct Consoles {
    uri: String,
    /// By the VM's id.
    all: Mutex<HashMap<String, Listened>>,
    /// Opened for the first of them.
    connection: Mutex<Option<Connect>>,
}

impl Consoles {
    pub fn new(uri: &str) -> Self {
        Self { uri: uri.to_owned(), all: Mutex::default(), connection: Mutex::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, Listened>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that has ended is opened anew.
    fn connection(&self) -> Result<Connect, Problem> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = connection.as_ref().filter(|open| open.is_alive().unwrap_or(false)) {
            return Ok(open.clone());
        }
        let opened = connections::open(&self.uri, KEEPALIVE)?;
        *connection = Some(opened.clone());
        Ok(opened)
    }

    /// Of this run's console; none once another run has taken its place.
    fn turn(&self, vm: &str, run: Option<u32>) -> Option<u64> {
        self.all().get(vm).filter(|console| console.run == run).map(|console| console.turn)
    }

    /// Forgets this run's console, and not that of another.
    fn end(&self, vm: &str, run: Option<u32>) -> Option<u64> {
        let mut all = self.all();
        let its = all.get(vm).is_some_and(|console| console.run == run);
        its.then(|| all.remove(vm)).flatten().map(|console| console.turn)
    }
}

pub fn open(host: &Host, vm: &str, turn: u64, said: &SyncSender<Said>) -> Result<(), Problem> {
    let Some(domain) = host.own(vm)? else { return Err(Problem::Refused("there is no such domain".into())) };
    let run = domain.id();
    let stream = {
        let mut consoles = host.consoles.all();
        if let Some(console) = consoles.get_mut(vm).filter(|console| console.run == run) {
            console.turn = turn;
            return Ok(());
        }
        // Of a run that is over, whose end has not been heard yet; its thread ends with its stream.
        if let Some(before) = consoles.remove(vm) {
            let _ = before.stream.abort();
        }
        if consoles.len() >= CONSOLES_MAX {
            return Err(Problem::Refused(format!("{CONSOLES_MAX} consoles are listened to, which is the most")));
        }
        let connection = host.consoles.connection()?;
        let Some(domain) = find(&connection, vm)? else { return Err(Problem::Refused("there is no such domain".into())) };
        let stream = Stream::new(&connection, 0).map_err(|error| problem(&error))?;
        // Not taken from whoever is at it now.
        domain.open_console(None, &stream, 0).map_err(|error| problem(&error))?;
        consoles.insert(vm.to_owned(), Listened { run, turn, stream: stream.clone() });
        stream
    };
    let (said, vm, site) = (said.clone(), vm.to_owned(), host.site);
    let listening = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let mut piece = [0; PIECE_BYTES];
        while let Ok(got @ 1..) = stream.recv(&mut piece) {
            let bytes = piece.get(..usize::try_from(got).unwrap_or(0)).unwrap_or_default().to_vec();
            let Some(turn) = site.consoles.turn(&vm, run) else { return };
            // Waits while the node reads slowly, and the guest with it.
            if said.send(Said::Console { vm: vm.clone(), turn, bytes }).is_err() {
                return;
            }
        }
        if let Some(turn) = site.consoles.end(&vm, run) {
            let _ = said.send(Said::ConsoleEnded { vm, turn });
        }
    });
    listening.map(drop).map_err(|error| Problem::Failed(format!("no thread for its console: {error}")))
}

pub fn type_(host: &Host, vm: &str, bytes: &[u8]) -> Result<(), Problem> {
    let Some(stream) = host.consoles.all().get(vm).map(|console| console.stream.clone()) else {
        return Err(Problem::Failed("its console is not listened to now".into()));
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = stream.send(rest).map_err(|error| problem(&error))?;
        rest = usize::try_from(sent).ok().and_then(|sent| rest.get(sent..)).unwrap_or_default();
    }
    Ok(())
}
