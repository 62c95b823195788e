//! Checks that an agent's program is there and new enough, before the agent gets any work.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use hiveward_catalogue::agent::coding::CodingSpec;
use tokio::process::Command;

use super::{Speaks, claude};
use crate::{
    connector::{StartFailure, attempt::Shared},
    lines::tail_of,
    presets,
};

const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Number of programs that were looked at; all are forgotten at once when there are more.
const SEEN_MAX: usize = 256;

type Seen = HashMap<(PathBuf, Option<SystemTime>), Option<String>>;

/// What each program said, so that a thousand agents of one kind ask it once. The lock is held while it is asked.
static SEEN: LazyLock<Arc<tokio::sync::Mutex<Seen>>> = LazyLock::new(Arc::default);

/// Returns the program's file, as the agent's processes would find it.
fn find(program: &str, path: Option<&str>) -> Option<PathBuf> {
    if program.contains('/') {
        return std::fs::canonicalize(program).ok();
    }
    let places = path.unwrap_or_default().split(':').map(|place| PathBuf::from(place).join(program));
    places.into_iter().find(|place| place.is_file()).and_then(|place| std::fs::canonicalize(place).ok())
}

pub(super) async fn program(shared: &Shared, spec: &CodingSpec, speaks: Speaks) -> Result<(), StartFailure> {
    let failed = |message: String| StartFailure { message, output_tail: String::new() };
    let program = spec.argv.first().ok_or_else(|| failed("it names no program".to_owned()))?;
    let env = shared.base_env().map_err(failed)?;
    let path = env.env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_str());
    let Some(file) = find(program, path) else {
        let install = match speaks {
            Speaks::Claude => "; install it on the agent's host with `npm install -g @anthropic-ai/claude-code`".to_owned(),
            Speaks::Acp => match presets::install_of(program) {
                Some(how) => format!("; on the agent's host: {how}"),
                None => "; install it on the agent's host, or name it by its whole path".to_owned(),
            },
        };
        return Err(failed(format!("there is no program {program:?} in PATH ({}){install}", path.unwrap_or("empty"))));
    };
    if speaks == Speaks::Acp {
        return Ok(());
    }
    let changed = std::fs::metadata(&file).and_then(|meta| meta.modified()).ok();
    let key = (file, changed);
    let mut seen = SEEN.lock().await;
    if let Some(why) = seen.get(&key) {
        return why.clone().map_or(Ok(()), |why| Err(failed(why)));
    }
    let asked = Command::new(&key.0)
        .args(&spec.argv[1..])
        .arg("--version")
        .env_clear()
        .envs(env.env.iter().filter(|(name, _)| ["PATH", "HOME", "LANG"].contains(&name.as_str())).cloned())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let why = match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Err(_) => return Err(failed(format!("{program} --version did not answer within {} s", ANSWER_WITHIN.as_secs()))),
        Ok(Err(error)) => return Err(failed(format!("{program} cannot be run: {error}"))),
        Ok(Ok(output)) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(format!("{program} --version failed ({}): {}", output.status, tail_of(said.trim(), 512)))
        }
        Ok(Ok(output)) => claude::too_old(String::from_utf8_lossy(&output.stdout).trim()),
    };
    if seen.len() >= SEEN_MAX {
        seen.clear();
    }
    seen.insert(key, why.clone());
    why.map_or(Ok(()), |why| Err(failed(why)))
}
