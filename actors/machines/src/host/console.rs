//! A host's part in its VMs' serial consoles: listens, records, hands out what was said and passes on what is typed.
//!
//! Where the driver says so each console is listened to from the moment that its VM runs; others from the first time that
//! somebody asks. It ends with the VM, and with the connection; then the next look begins it again.

use std::{
    collections::{HashSet, hash_map::Entry},
    path::PathBuf,
    time::Duration,
};

use hiveward_kernel::id::VmId;
use hiveward_runtime::{call::Reply, clock::Deadline, supervise::Context};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    actor::{Host, State, deliver},
    driver::{ConsoleBytes, DriverError},
    message::HostMsg,
};
use crate::vm::console::{self, ConsolePiece, Recorder};

/// Number of consoles of one host that are listened to at once; each holds a thread of its driver. More are refused, and said so.
pub const CONSOLES_MAX: usize = 256;
/// Time before which a console that ends is listened to again by the next refresh only.
const LISTENED_LEAST: Duration = Duration::from_secs(1);
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that are written at once.
const BATCH_BYTES: usize = 64 << 10;

/// One console that is listened to, or was to be.
pub struct Console {
    /// End of the recording, and why it is not listened to, if it is not.
    told: watch::Receiver<Told>,
    begun: Instant,
}

#[derive(Clone, Debug, Default)]
pub struct Told {
    end: u64,
    closed: Option<String>,
}

impl Host {
    /// Listens to what runs and is not listened to, and forgets what does not run any more.
    pub(super) fn look_at_consoles(&self, ctx: &Context<HostMsg>, state: &mut State) {
        let running: HashSet<VmId> = state.running().collect();
        state.consoles.retain(|vm, _| running.contains(vm));
        let Some(driver) = self.reachable(state) else { return };
        if !driver.records_consoles() {
            return;
        }
        for vm in running {
            self.listen(ctx, state, vm);
        }
    }

    fn listen(&self, ctx: &Context<HostMsg>, state: &mut State, vm: VmId) {
        let Some(driver) = self.reachable(state) else { return };
        if state.consoles.len() >= CONSOLES_MAX {
            return;
        }
        let Entry::Vacant(place) = state.consoles.entry(vm) else { return };
        let (tell, told) = watch::channel(Told::default());
        place.insert(Console { told, begun: Instant::now() });
        let (data_dir, me) = (self.services.data_dir.clone(), ctx.addr().clone());
        ctx.task(async move {
            let why = match driver.console(vm, Deadline::after(OPEN_WITHIN)).await {
                Ok(bytes) => record(data_dir, vm, bytes, &tell).await,
                Err(error) => error.to_string(),
            };
            tell.send_modify(|told| told.closed = Some(why));
            deliver(&me, HostMsg::ConsoleEnded { vm }).await;
        });
    }

    /// Forgets one that has ended; the next look listens anew, if it still runs. Soon, as it may just boot again, but not over
    /// and over to one that cannot be listened to.
    pub(super) fn console_ended(&self, ctx: &Context<HostMsg>, state: &mut State, vm: VmId) {
        let Entry::Occupied(console) = state.consoles.entry(vm) else { return };
        if console.get().told.borrow().closed.is_some() {
            let hurry = console.remove().begun.elapsed() >= LISTENED_LEAST;
            if hurry {
                self.list_soon(ctx, state);
            }
        }
    }

    /// Answers with what a console said from there on; waits for that for `wait_ms` at most.
    pub(super) fn read_console(
        &self,
        ctx: &Context<HostMsg>,
        state: &mut State,
        vm: VmId,
        from: console::From,
        wait_ms: u64,
        reply: Reply<Result<ConsolePiece, DriverError>>,
    ) {
        if !state.consoles.contains_key(&vm) && state.running().any(|running| running == vm) {
            self.listen(ctx, state, vm);
        }
        let told = state.consoles.get(&vm).map(|console| console.told.clone());
        let off = if state.consoles.len() >= CONSOLES_MAX {
            format!("{CONSOLES_MAX} consoles of its host are listened to, which is the most")
        } else {
            "it does not run, or its host does not answer".to_owned()
        };
        let data_dir = self.services.data_dir.clone();
        ctx.task(async move {
            let piece = async {
                let until = tokio::time::Instant::now() + Duration::from_millis(wait_ms);
                let (mut told, mut from) = (told, from);
                loop {
                    // Before the look, so that what comes after it is news.
                    let closed = match &mut told {
                        Some(told) => told.borrow_and_update().closed.clone(),
                        None => Some(off.clone()),
                    };
                    let dir = data_dir.clone();
                    let read = tokio::task::spawn_blocking(move || console::read(&dir, vm, from)).await;
                    let failed = |message: String| DriverError::Failed { message };
                    let piece = read.map_err(|error| failed(error.to_string()))?;
                    let piece = piece.map_err(|error| failed(format!("the recording cannot be read: {error}")))?;
                    if !piece.bytes.is_empty() || closed.is_some() {
                        return Ok(ConsolePiece { closed, ..piece });
                    }
                    // From here on, however much comes.
                    from = console::From::Byte(piece.after_byte);
                    let Some(told) = &mut told else { return Ok(piece) };
                    match tokio::time::timeout_at(until, told.changed()).await {
                        Ok(Ok(())) => {}
                        // It is over, which is said now or with the next question.
                        Ok(Err(_)) | Err(_) => return Ok(piece),
                    }
                }
            };
            let piece = piece.await;
            reply.answer(piece);
        });
    }

    pub(super) fn type_console(
        &self,
        ctx: &Context<HostMsg>,
        state: &mut State,
        vm: VmId,
        bytes: Vec<u8>,
        reply: Reply<Result<(), DriverError>>,
    ) {
        let Some(driver) = self.reachable(state) else {
            return reply.answer(Err(DriverError::Unreachable { message: "there is no connection to it now".into() }));
        };
        if !state.running().any(|running| running == vm) {
            return reply.answer(Err(DriverError::Refused { message: "it does not run".into() }));
        }
        self.listen(ctx, state, vm);
        let deadline = reply.deadline();
        ctx.task(async move {
            let typed = driver.type_console(vm, bytes, deadline).await;
            reply.answer(typed);
        });
    }

    /// Removes recordings of VMs that are no more.
    pub(super) fn sweep_consoles(&self, ctx: &Context<HostMsg>) {
        let services = self.services.clone();
        ctx.task(async move {
            let swept = tokio::task::spawn_blocking(move || {
                console::sweep(&services.data_dir, |vm| services.directory.read(|known| known.fleet.vms.contains_key(&vm)))
            });
            if let Ok(Err(error)) = swept.await {
                tracing::warn!(%error, "recordings of consoles of VMs that are gone stay until the next look");
            }
        });
    }
}

/// Records what a console says until it ends, and returns why it did.
async fn record(data_dir: PathBuf, vm: VmId, mut said: mpsc::Receiver<ConsoleBytes>, tell: &watch::Sender<Told>) -> String {
    let opened = tokio::task::spawn_blocking(move || Recorder::open(&data_dir, vm)).await;
    let mut recorder = match opened.map_err(std::io::Error::other).flatten() {
        Ok(recorder) => recorder,
        Err(error) => return format!("its console cannot be recorded: {error}"),
    };
    tell.send_modify(|told| told.end = recorder.end());
    while let Some(first) = said.recv().await {
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(ConsoleBytes { missed, bytes }) = next {
            if missed > 0 {
                batch.extend_from_slice(format!("\r\n[{missed} bytes came faster than they were recorded]\r\n").as_bytes());
            }
            batch.extend_from_slice(&bytes);
            next = if batch.len() < BATCH_BYTES { said.try_recv().ok() } else { None };
        }
        let wrote = tokio::task::spawn_blocking(move || recorder.append(&batch).map(|()| recorder)).await;
        recorder = match wrote.map_err(std::io::Error::other).flatten() {
            Ok(recorder) => recorder,
            Err(error) => return format!("its console cannot be recorded: {error}"),
        };
        tell.send_modify(|told| told.end = recorder.end());
    }
    "the console has ended".into()
}
