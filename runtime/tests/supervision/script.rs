//! An actor that does in each callback what the test says, and keeps a diary that several of them may share.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use hiveward_runtime::{
    call::{CallError, Door, Reply},
    clock::Deadline,
    supervise::{
        ActorSpec, Behaviour, ChildSpec, Context, Failure, Shutdown, Strategy, Supervisor, SupervisorSpec, TimerHandle, Tree,
    },
};

pub const WELL: u8 = 0;
pub const PANIC: u8 = 1;
pub const ERROR: u8 = 2;
pub const HANG: u8 = 3;

pub type Diary = Arc<Mutex<Vec<String>>>;

#[derive(Default)]
pub struct Script {
    pub name: String,
    pub diary: Diary,
    pub start: AtomicU8,
    pub stop: AtomicU8,
    pub make: AtomicU8,
    pub lives: AtomicUsize,
    pub states: Arc<AtomicUsize>,
    pub states_most: AtomicUsize,
}

impl Script {
    fn write(&self, what: &str) {
        self.diary.lock().unwrap().push(format!("{what} {}", self.name));
    }
}

async fn play(act: &AtomicU8, place: &str) -> Result<(), Failure> {
    match act.load(SeqCst) {
        PANIC => panic!("told to panic in {place}"),
        ERROR => Err(Failure::new(format!("told to fail in {place}"))),
        HANG => std::future::pending().await,
        _ => Ok(()),
    }
}

/// Counts itself as long as it is held, and takes its time to let go, as a store does that closes its files.
pub struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        // As it wakes others meanwhile: without that the scheduler keeps who was woken last waiting on this thread.
        drop(tokio::spawn(async {}));
        std::thread::sleep(Duration::from_millis(2));
        self.0.fetch_sub(1, SeqCst);
    }
}

pub struct State {
    _held: Held,
    life: usize,
    timers: Vec<TimerHandle>,
}

pub struct Scripted(Arc<Script>);

pub enum Msg {
    Life(Reply<usize>),
    Panic,
    Hang,
    Stop,
    Note,
    PanicInTask,
    /// A task that writes into the diary when it is dropped.
    Task,
    /// Writes into the diary after a second, unless the handle is dropped at once.
    Timer {
        keep: bool,
    },
    Tick,
    Each(Duration),
}

struct WritesAtEnd(Arc<Script>);

impl Drop for WritesAtEnd {
    fn drop(&mut self) {
        self.0.write("task over");
    }
}

impl Behaviour for Scripted {
    type Msg = Msg;
    type State = State;

    async fn start(&self, _: &Context<Msg>) -> Result<State, Failure> {
        play(&self.0.start, "start").await?;
        let states = self.0.states.fetch_add(1, SeqCst) + 1;
        self.0.states_most.fetch_max(states, SeqCst);
        self.0.write("start");
        Ok(State { _held: Held(self.0.states.clone()), life: self.0.lives.fetch_add(1, SeqCst) + 1, timers: Vec::new() })
    }

    async fn handle(&self, ctx: &Context<Msg>, msg: Msg, state: &mut State) -> Result<(), Failure> {
        match msg {
            Msg::Life(reply) => reply.answer(state.life),
            Msg::Panic => panic!("told to panic"),
            Msg::Hang => std::future::pending().await,
            Msg::Stop => ctx.stop(),
            Msg::Note => ctx.set_note("busy with it"),
            Msg::PanicInTask => ctx.task(async { panic!("told to panic in a task") }),
            Msg::Task => {
                let at_end = WritesAtEnd(self.0.clone());
                ctx.task(async move {
                    let _at_end = at_end;
                    std::future::pending().await
                });
            }
            Msg::Timer { keep } => {
                let timer = ctx.after(Duration::from_secs(1), Msg::Tick);
                if keep {
                    state.timers.push(timer);
                }
            }
            Msg::Tick => self.0.write("tick"),
            Msg::Each(period) => state.timers.push(ctx.every(period, || Msg::Tick)),
        }
        Ok(())
    }

    async fn stop(&self, _: &Context<Msg>, _: &mut State) {
        self.0.write("stop");
        // There is nobody to tell of an error.
        drop(play(&self.0.stop, "stop").await);
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        assert!(state.life < 3, "told to panic in observe");
        serde_json::json!({ "life": state.life })
    }
}

pub struct Made {
    pub spec: Option<ChildSpec>,
    pub door: Door<Msg>,
    pub script: Arc<Script>,
}

pub fn scripted(name: &str, diary: &Diary, change: impl FnOnce(ActorSpec<Scripted>) -> ActorSpec<Scripted>) -> Made {
    let script = Arc::new(Script { name: name.into(), diary: diary.clone(), ..Script::default() });
    let made = script.clone();
    let spec = ChildSpec::actor(name, "scripted", move || {
        assert!(made.make.load(SeqCst) == WELL, "told to panic in the factory");
        Scripted(made.clone())
    });
    let (spec, door) = change(spec.shutdown(Shutdown::Grace(Duration::from_millis(200)))).build();
    Made { spec: Some(spec), door, script }
}

pub fn spec_of(name: &str, strategy: Strategy, children: &mut [&mut Made]) -> SupervisorSpec {
    SupervisorSpec::new(name, strategy, children.iter_mut().map(|child| child.spec.take().unwrap()).collect())
        .intensity(super::restart::MANY)
}

pub async fn run(strategy: Strategy, children: &mut [&mut Made]) -> (Supervisor, Tree) {
    let tree = Tree::default();
    (Supervisor::root(spec_of("root", strategy, children), tree.clone()).await.unwrap(), tree)
}

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

/// Asks until it answers as this life or a later one.
pub async fn lives(door: &Door<Msg>, at_least: usize) -> usize {
    let patience = soon();
    loop {
        match door.ask(soon(), Msg::Life).await {
            Ok(life) if life >= at_least => return life,
            Ok(_) | Err(CallError::Gone | CallError::Dropped) if !patience.passed() => {
                tokio::time::sleep(Duration::from_millis(1)).await
            }
            other => panic!("life {at_least} never answered: {other:?}"),
        }
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = soon();
    while !holds() {
        assert!(!patience.passed(), "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What was written since the last look.
pub fn read(diary: &Diary) -> Vec<String> {
    std::mem::take(&mut *diary.lock().unwrap())
}
