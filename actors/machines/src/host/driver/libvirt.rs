//! libvirt, behind a process of its own: what crashes or hangs in C harms one connection.
//!
//! Owns the process and ends it with the connection. The program is `hiveward-libvirt-driver`, beside this one, on the
//! path, or where `HIVEWARD_LIBVIRT_DRIVER` says; without it such hosts cannot be reached, and everything else works.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt, future::BoxFuture};
use hiveward_catalogue::host::{
    protocol::{
        Call, Definition, DiskCopies, DriverAnswer, FRAME_BYTES_MAX, GuestInfo, Marks, Move, Network, Pool, Power, Problem,
        Progress, Request, Said, Seen, VERSION,
    },
    spec::{Capacity, HostUri},
};
use hiveward_kernel::id::{HostId, VmId};
use hiveward_runtime::clock::Deadline;
use parking_lot::Mutex;
use tokio::{
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot},
};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{
    Action, CHANGES_MAX, CONSOLE_PIECES_MAX, Change, Connection, ConsoleBytes, Domain, DomainSpec, Driver, DriverError, Listing,
    Migration, Off, Run, Usage, epoch_of,
};

const PROGRAM: &str = "hiveward-libvirt-driver";
/// Variable that says where the program is, if it is not beside this one or on the path.
pub const PROGRAM_VARIABLE: &str = "HIVEWARD_LIBVIRT_DRIVER";
/// Number of calls that are asked and not answered; one more fails.
const PENDING_MAX: usize = 256;
/// Variables of the node's environment that the program gets: how to reach libvirt, and no secrets.
const ENVIRONMENT: [&str; 8] =
    ["PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "LIBVIRT_DEFAULT_URI", "LANG"];

struct Ask {
    call: Call,
    within_ms: u64,
    reply: oneshot::Sender<Result<DriverAnswer, Problem>>,
}

struct Libvirt {
    asks: mpsc::Sender<Ask>,
    host: HostId,
    /// Whether its kind has serial consoles.
    has_consoles: bool,
    consoles: Consoles,
    turns: AtomicU64,
}

/// Listener to a console.
struct Listener {
    /// Number under which it was asked for: what is said under another is of a run before.
    turn: u64,
    to: mpsc::Sender<ConsoleBytes>,
    /// Bytes that were left out since.
    missed: u64,
}

type Consoles = Arc<Mutex<HashMap<String, Listener>>>;

fn heard(consoles: &Consoles, vm: &str, turn: u64, bytes: Vec<u8>) {
    let mut consoles = consoles.lock();
    let Some(listener) = consoles.get_mut(vm).filter(|listener| listener.turn == turn) else { return };
    let count = bytes.len() as u64;
    match listener.to.try_send(ConsoleBytes { missed: listener.missed, bytes: bytes.into() }) {
        Ok(()) => listener.missed = 0,
        Err(_) => listener.missed += count,
    }
}

/// Forgets who heard it, and nobody who listens to a later run.
fn console_ended(consoles: &Consoles, vm: &str, turn: u64) {
    let mut consoles = consoles.lock();
    if consoles.get(vm).is_some_and(|listener| listener.turn == turn) {
        consoles.remove(vm);
    }
}

static GIVEN: OnceLock<PathBuf> = OnceLock::new();

/// Sets the program of this process from now on. For tests, which cannot change their environment.
#[doc(hidden)]
pub fn use_program(path: PathBuf) {
    let _ = GIVEN.set(path);
}

fn program() -> PathBuf {
    if let Some(given) = GIVEN.get() {
        return given.clone();
    }
    if let Some(given) = std::env::var_os(PROGRAM_VARIABLE) {
        return given.into();
    }
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(PROGRAM)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}

/// Returns an id as 32 digits: the form in which ids go to the program.
fn digits(bits: u128) -> String {
    format!("{bits:032x}")
}

fn unreachable(message: impl Into<String>) -> DriverError {
    DriverError::Unreachable { message: message.into() }
}

struct Wire {
    child: Child,
    said: FramedRead<ChildStdout, LengthDelimitedCodec>,
    ask: FramedWrite<ChildStdin, LengthDelimitedCodec>,
}

impl Wire {
    fn start() -> Result<Self, DriverError> {
        let program = program();
        let kept = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(&program)
            .env_clear()
            .envs(kept)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| {
            unreachable(format!(
                "the libvirt driver {} does not start: {error}; install {PROGRAM} beside hiveward",
                program.display()
            ))
        })?;
        let codec = || LengthDelimitedCodec::builder().little_endian().max_frame_length(FRAME_BYTES_MAX).new_codec();
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(unreachable("the libvirt driver has no standard streams"));
        };
        Ok(Self { child, said: FramedRead::new(stdout, codec()), ask: FramedWrite::new(stdin, codec()) })
    }

    async fn put(&mut self, request: &Request) -> Result<(), String> {
        let frame = rmp_serde::to_vec_named(request).map_err(|error| error.to_string())?;
        self.ask.send(bytes::Bytes::from(frame)).await.map_err(|error: std::io::Error| error.to_string())
    }

    /// Returns what the program says next, or why there is no more. Dropping the future loses nothing.
    async fn next(&mut self) -> Result<Said, String> {
        match self.said.next().await {
            Some(Ok(frame)) => rmp_serde::from_slice(&frame).map_err(|error| format!("the libvirt driver speaks oddly: {error}")),
            Some(Err(error)) => Err(format!("the libvirt driver cannot be heard: {error}")),
            None => Err(match self.child.wait().await {
                Ok(status) => format!("the libvirt driver ended: {status}"),
                Err(error) => format!("the libvirt driver ended: {error}"),
            }),
        }
    }
}

/// Opens a connection to libvirt at `uri` by a program of its own. Errors: the program or libvirt cannot be reached, or refuses,
/// or does not answer by `deadline`.
pub async fn open(uri: &HostUri, host: HostId, pool: &Pool, deadline: Deadline) -> Result<Connection, DriverError> {
    let mut wire = Wire::start()?;
    let within_ms = millis(deadline);
    let call = Call::Open { version: VERSION, uri: uri.text.clone(), owner: digits(host.as_u128()), pool: pool.clone() };
    let opened = async {
        wire.put(&Request { id: 0, within_ms, call }).await.map_err(unreachable)?;
        loop {
            match wire.next().await.map_err(unreachable)? {
                Said::Answer { id: 0, result } => return result.map_err(problem),
                Said::Closed { why } => return Err(unreachable(why)),
                // Before anything was looked at, nothing is news.
                Said::Changed { .. } | Said::Answer { .. } | Said::Console { .. } | Said::ConsoleEnded { .. } => {}
            }
        }
    };
    tokio::time::timeout_at(deadline.instant(), opened).await.unwrap_or(Err(DriverError::Expired { waited_ms: within_ms }))?;
    let (asks, asked) = mpsc::channel(PENDING_MAX);
    let (listener, changes) = mpsc::channel(CHANGES_MAX);
    let consoles = Consoles::default();
    let driver =
        Arc::new(Libvirt { asks, host, has_consoles: uri.has_disks(), consoles: consoles.clone(), turns: AtomicU64::new(0) });
    Ok(Connection { driver, changes, pump: Box::pin(pump(wire, asked, listener, consoles)) })
}

fn millis(deadline: Deadline) -> u64 {
    u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX)
}

fn problem(problem: Problem) -> DriverError {
    match problem {
        Problem::Refused(message) => DriverError::Refused { message },
        Problem::Failed(message) => DriverError::Failed { message },
        Problem::Unreachable(message) => DriverError::Unreachable { message },
    }
}

/// Carries questions there and answers back until the driver is dropped or the program ends; then the program is killed.
async fn pump(mut wire: Wire, mut asked: mpsc::Receiver<Ask>, listener: mpsc::Sender<Change>, consoles: Consoles) {
    let mut pending: HashMap<u64, oneshot::Sender<Result<DriverAnswer, Problem>>> = HashMap::new();
    let (mut last, mut missed) = (0_u64, false);
    let why = loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some(Ask { call, within_ms, reply }) = ask else { return };
                pending.retain(|_, reply| !reply.is_closed());
                if pending.len() >= PENDING_MAX {
                    let _ = reply.send(Err(Problem::Failed("too many calls wait for the hypervisor".into())));
                    continue;
                }
                last += 1;
                pending.insert(last, reply);
                if let Err(why) = wire.put(&Request { id: last, within_ms, call }).await {
                    break why;
                }
            }
            said = wire.next() => match said {
                Ok(Said::Answer { id, result }) => {
                    if let Some(reply) = pending.remove(&id) {
                        let _ = reply.send(result);
                    }
                }
                Ok(Said::Changed { vm }) => {
                    let vm = vm.and_then(|vm| u128::from_str_radix(&vm, 16).ok()).map(VmId::from_u128);
                    let change = if missed { Change::Everything } else { vm.map_or(Change::Everything, Change::Domain) };
                    missed = listener.try_send(change).is_err();
                }
                Ok(Said::Console { vm, turn, bytes }) => heard(&consoles, &vm, turn, bytes),
                Ok(Said::ConsoleEnded { vm, turn }) => console_ended(&consoles, &vm, turn),
                Ok(Said::Closed { why }) | Err(why) => break why,
            }
        }
    };
    // What waits hears that there is no connection any more, because its way back is dropped.
    drop(pending);
    consoles.lock().clear();
    let _ = listener.send(Change::Closed { why }).await;
}

fn run(power: Power) -> Run {
    match power {
        Power::On => Run::Running,
        Power::Paused => Run::Paused,
        Power::Moving => Run::Moving,
        Power::Off => Run::Off(Off::Unknown),
        Power::OffByGuest => Run::Off(Off::Shutdown),
        Power::OffByForce => Run::Off(Off::Destroyed),
        Power::OffByMove => Run::Off(Off::Moved),
        Power::Crashed => Run::Off(Off::Crashed),
    }
}

impl Libvirt {
    async fn ask(&self, call: Call, deadline: Deadline) -> Result<DriverAnswer, DriverError> {
        let within_ms = millis(deadline);
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.asks.send(Ask { call, within_ms, reply }).await.map_err(|_| unreachable("the connection is over"))?;
            answer.await.map_err(|_| unreachable("the connection ended before an answer came"))?.map_err(problem)
        };
        tokio::time::timeout_at(deadline.instant(), asked).await.unwrap_or(Err(DriverError::Expired { waited_ms: within_ms }))
    }

    fn domain(&self, seen: Seen) -> Option<Domain> {
        let vm = VmId::from_u128(u128::from_str_radix(&seen.vm, 16).ok()?);
        let usage = Usage {
            cpu_time_ns: seen.cpu_time_ns,
            memory_bytes: seen.memory_bytes,
            disk_read_bytes: seen.disk_read_bytes,
            disk_written_bytes: seen.disk_written_bytes,
            network_received_bytes: seen.network_received_bytes,
            network_sent_bytes: seen.network_sent_bytes,
        };
        let epoch = seen.name.as_deref().map_or(0, epoch_of);
        // libvirt does not count boots.
        Some(Domain { vm, owner: self.host, run: run(seen.power), boots: None, usage, epoch, lag: seen.lag })
    }
}

fn definition(spec: DomainSpec) -> Definition {
    Definition {
        owner: digits(spec.owner.as_u128()),
        name: spec.name,
        cpus: spec.cpus,
        memory_bytes: spec.memory_bytes,
        image: spec.image,
        base: spec.base,
        bases: spec.bases,
        isolated: spec.isolated,
        disks: spec.disks.into_iter().map(|disk| (disk.name, disk.size_bytes)).collect(),
        networks: spec.networks,
        ssh_keys: spec.ssh_keys,
        user_data: spec.user_data,
        cards: spec.cards,
    }
}

impl Libvirt {
    async fn listing(&self, call: Call, deadline: Deadline) -> Result<Listing, DriverError> {
        match self.ask(call, deadline).await? {
            DriverAnswer::Listing { domains, foreign, others } => {
                let all = |seen: Vec<Seen>| seen.into_iter().filter_map(|seen| self.domain(seen)).collect();
                Ok(Listing { domains: all(domains), foreign, others: all(others) })
            }
            _ => odd(),
        }
    }
}

fn odd<T>() -> Result<T, DriverError> {
    Err(DriverError::Failed { message: "the libvirt driver answered another question".into() })
}

impl Driver for Libvirt {
    fn capacity(&self, deadline: Deadline) -> BoxFuture<'_, Result<Capacity, DriverError>> {
        Box::pin(async move {
            match self.ask(Call::Capacity, deadline).await? {
                DriverAnswer::Capacity { cpus, memory_bytes, version } => Ok(Capacity { cpus, memory_bytes, version }),
                _ => odd(),
            }
        })
    }

    fn list(&self, deadline: Deadline) -> BoxFuture<'_, Result<Listing, DriverError>> {
        Box::pin(self.listing(Call::List, deadline))
    }

    fn glance(&self, deadline: Deadline) -> BoxFuture<'_, Result<Listing, DriverError>> {
        Box::pin(self.listing(Call::Glance, deadline))
    }

    fn adopt(&self, vms: Vec<VmId>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        let vms = vms.into_iter().map(|vm| digits(vm.as_u128())).collect();
        Box::pin(async move { self.ask(Call::Adopt { vms }, deadline).await.map(drop) })
    }

    fn act(&self, vm: VmId, action: Action, deadline: Deadline) -> BoxFuture<'_, Result<Option<Domain>, DriverError>> {
        Box::pin(async move {
            let step = action.map(definition);
            match self.ask(Call::Act { vm: digits(vm.as_u128()), step }, deadline).await? {
                DriverAnswer::Domain(seen) => Ok(seen.and_then(|seen| self.domain(seen))),
                _ => odd(),
            }
        })
    }

    fn guest(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<GuestInfo>, DriverError>> {
        Box::pin(async move {
            match self.ask(Call::Guest { vm: digits(vm.as_u128()) }, deadline).await? {
                DriverAnswer::Guest(info) => Ok(info),
                _ => odd(),
            }
        })
    }

    fn guest_command(&self, vm: VmId, command: String, deadline: Deadline) -> BoxFuture<'_, Result<Option<String>, DriverError>> {
        Box::pin(async move {
            match self.ask(Call::GuestCommand { vm: digits(vm.as_u128()), command }, deadline).await? {
                DriverAnswer::GuestCommand(said) => Ok(said),
                _ => odd(),
            }
        })
    }

    fn ensure_networks(&self, networks: Vec<Network>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move { self.ask(Call::EnsureNetworks { networks }, deadline).await.map(drop) })
    }

    fn sweep_networks(&self, keep: Vec<u32>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move { self.ask(Call::SweepNetworks { keep }, deadline).await.map(drop) })
    }

    fn sweep(&self, keep: Vec<String>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move { self.ask(Call::Sweep { keep }, deadline).await.map(drop) })
    }

    fn backup<'a>(
        &'a self,
        vm: VmId,
        dir: &'a std::path::Path,
        only: Option<&'a str>,
        marks: Marks,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<DiskCopies, DriverError>> {
        Box::pin(async move {
            let Some(dir) = dir.to_str() else {
                return Err(DriverError::Refused { message: format!("{} is no text", dir.display()) });
            };
            let (vm, dir, only) = (digits(vm.as_u128()), dir.to_owned(), only.map(str::to_owned));
            match self.ask(Call::Backup { vm, dir, only, marks }, deadline).await? {
                DriverAnswer::BackedUp(copies) => Ok(copies),
                _ => odd(),
            }
        })
    }

    fn records_consoles(&self) -> bool {
        self.has_consoles
    }

    fn console(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<mpsc::Receiver<ConsoleBytes>, DriverError>> {
        Box::pin(async move {
            let vm = digits(vm.as_u128());
            let (to, said) = mpsc::channel(CONSOLE_PIECES_MAX);
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            // Before it is asked for, so that nothing is missed; who listened before has let go.
            self.consoles.lock().insert(vm.clone(), Listener { turn, to, missed: 0 });
            let opened = self.ask(Call::Console { vm: vm.clone(), turn }, deadline).await;
            if let Err(error) = opened {
                console_ended(&self.consoles, &vm, turn);
                return Err(error);
            }
            Ok(said)
        })
    }

    fn type_console(&self, vm: VmId, bytes: Vec<u8>, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move { self.ask(Call::Type { vm: digits(vm.as_u128()), bytes }, deadline).await.map(drop) })
    }

    fn migrate(&self, vm: VmId, migration: Migration, deadline: Deadline) -> BoxFuture<'_, Result<Progress, DriverError>> {
        Box::pin(async move {
            let Migration { to, uri, peer, pool, name, live, bandwidth_mib, limit_ms, at_limit } = migration;
            let move_ = Box::new(Move {
                to_uri: uri,
                peer,
                to_owner: digits(to.as_u128()),
                to_pool: pool,
                name,
                live,
                bandwidth_mib,
                limit_ms,
                at_limit,
            });
            match self.ask(Call::Migrate { vm: digits(vm.as_u128()), move_ }, deadline).await? {
                DriverAnswer::Migrated(measured) => Ok(measured),
                _ => odd(),
            }
        })
    }

    fn job(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<Option<Progress>, DriverError>> {
        Box::pin(async move {
            match self.ask(Call::Job { vm: digits(vm.as_u128()) }, deadline).await? {
                DriverAnswer::Job(progress) => Ok(progress),
                _ => odd(),
            }
        })
    }

    fn abort(&self, vm: VmId, deadline: Deadline) -> BoxFuture<'_, Result<(), DriverError>> {
        Box::pin(async move { self.ask(Call::Abort { vm: digits(vm.as_u128()) }, deadline).await.map(drop) })
    }
}
