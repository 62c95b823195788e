//! Serial consoles: each that is listened to has a thread of its own, until its domain or this process ends.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
};

use virt::stream::Stream;

use crate::{
    domain::{Host, problem},
    protocol::{Problem, Said},
};

/// At once. The node asks for no more.
const CONSOLES_MAX: usize = 256;
const PIECE_BYTES: usize = 4 << 10;
const STACK_BYTES: usize = 256 << 10;

/// By the VM's id.
#[derive(Default)]
pub struct Consoles(Mutex<HashMap<String, Stream>>);

impl Consoles {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub fn open(host: &'static Host, vm: &str, said: &SyncSender<Said>) -> Result<(), Problem> {
    let Some(domain) = host.own(vm)? else { return Err(Problem::Refused("there is no such domain".into())) };
    let stream = {
        let mut consoles = host.consoles.all();
        if consoles.contains_key(vm) {
            return Ok(());
        }
        if consoles.len() >= CONSOLES_MAX {
            return Err(Problem::Refused(format!("{CONSOLES_MAX} consoles are listened to, which is the most")));
        }
        let stream = Stream::new(&host.connection, 0).map_err(|error| problem(&error))?;
        // Not taken from whoever is at it now.
        domain.open_console(None, &stream, 0).map_err(|error| problem(&error))?;
        consoles.insert(vm.to_owned(), stream.clone());
        stream
    };
    let (said, vm) = (said.clone(), vm.to_owned());
    let listening = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let mut piece = [0; PIECE_BYTES];
        while let Ok(got @ 1..) = stream.recv(&mut piece) {
            let bytes = piece.get(..usize::try_from(got).unwrap_or(0)).unwrap_or_default().to_vec();
            // Waits while the node reads slowly, and the guest with it.
            if said.send(Said::Console { vm: vm.clone(), bytes }).is_err() {
                return;
            }
        }
        host.consoles.all().remove(&vm);
        let _ = said.send(Said::ConsoleEnded { vm });
    });
    listening.map(drop).map_err(|error| Problem::Failed(format!("no thread for its console: {error}")))
}

pub fn type_(host: &Host, vm: &str, bytes: &[u8]) -> Result<(), Problem> {
    let Some(stream) = host.consoles.all().get(vm).cloned() else {
        return Err(Problem::Failed("its console is not listened to now".into()));
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let sent = stream.send(rest).map_err(|error| problem(&error))?;
        rest = usize::try_from(sent).ok().and_then(|sent| rest.get(sent..)).unwrap_or_default();
    }
    Ok(())
}
