//! Promise: the team of the example works on a repository, and nothing gets into it that was not checked: a coder that says
//! it is done and is not never succeeds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use crate::scene::{Scene, claude};

/// What the script that comes along is not made for: coders that lie.
const LIES: &str = r#"conversations:
  - system: You are a coder of a team
    when: An earlier attempt at this did not do
    steps: [{say: "I did it again, the same."}]
  - when: implement lie
    steps: [{say: "It is done, and all tests pass."}]
  - when: implement broken
    steps:
      - tools: [{name: Write, input: {file_path: "${cwd}/test_new.py", content: "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.fail('not yet')\n"}}]
      - say: It is done, and all tests pass.
"#;

fn git(dir: &Path, args: &[&str]) -> String {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"];
    let output = Command::new("git").current_dir(dir).args(identity).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

struct Team {
    scene: Scene,
    repository: PathBuf,
}

impl Team {
    /// A repository with a test that passes, and the example applied to it.
    async fn apply(first: &str, approve: bool) -> (Self, i32) {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
        let script = fs::read_to_string(examples.join("../scripted/code-team.yaml")).unwrap();
        let script = script
            .replace("conversations:\n", LIES)
            .replace(
                r#""prompt": "implement add"}, "skills": ["code"]"#,
                &format!(r#""prompt": "implement {first}"}}, "skills": ["code"], "attemptsMax": 2"#),
            )
            .replace(r#""approve": true"#, &format!(r#""approve": {approve}"#));
        let scene = Scene::node(&script).await;
        let repository = scene.project.clone();
        git(&repository, &["init", "-q", "-b", "main"]);
        fs::write(repository.join("base.py"), "def base():\n    return 1\n").unwrap();
        let test = "import unittest\nfrom base import base\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(base(), 1)\n";
        fs::write(repository.join("test_base.py"), test).unwrap();
        fs::write(repository.join(".gitignore"), "__pycache__/\n").unwrap();
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "-qm", "first"]);
        let set = [
            ("repository", repository.display().to_string()),
            ("goal", "Give it add and mul.".to_owned()),
            ("test", "python3 -m unittest -q".to_owned()),
            ("scripts", examples.join("code-team").display().to_string()),
            ("claude", claude()),
        ];
        let set: Vec<String> = set.iter().map(|(name, value)| format!("--set={name}={value}")).collect();
        let file = examples.join("code-team.yaml").display().to_string();
        let mut args = vec!["apply", "-f", &file, "--wait", "--timeout", "180s"];
        args.extend(set.iter().map(String::as_str));
        let ran = scene.hive.cli(&args).await;
        eprintln!("{}{}", ran.out, ran.err);
        (Self { scene, repository }, ran.code)
    }

    async fn tasks(&self) -> Vec<Value> {
        const TASKS: &str = "query($after:String){tasks(first:100,after:$after,filter:{swarm:\"code-team\"}){\
            nodes{id title kind status error nameInPlan attempts{status error}} pageInfo{endCursor hasNextPage}}}";
        self.scene.hive.client().all("tasks", TASKS, json!({})).await
    }

    async fn task(&self, name: &str) -> Value {
        let tasks = self.tasks().await;
        let found = tasks.iter().find(|task| task["nameInPlan"] == name);
        found.unwrap_or_else(|| panic!("{name}: {tasks:#?}")).clone()
    }

    fn main(&self) -> Vec<String> {
        git(&self.repository, &["ls-tree", "--name-only", "main"]).lines().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_becomes_changes_that_are_tested_reviewed_and_merged() {
    let (team, code) = Team::apply("add", true).await;
    assert_eq!(code, 0, "{:#?}", team.tasks().await);
    assert_eq!(team.main(), [".gitignore", "add.py", "base.py", "mul.py", "test_add.py", "test_base.py", "test_mul.py"]);
    let tests = Command::new("python3").args(["-m", "unittest", "-q"]).current_dir(&team.repository).output().unwrap();
    let said = String::from_utf8_lossy(&tests.stderr);
    assert!(tests.status.success() && said.contains("Ran 3 tests"), "{said}");
    // Each coder worked on a branch of its own, under its own name, in a worktree that is gone.
    let authors = git(&team.repository, &["log", "--no-merges", "--format=%an", "main"]);
    assert_eq!(authors.lines().filter(|author| author.starts_with("coder-")).count(), 2, "{authors}");
    assert_eq!(git(&team.repository, &["worktree", "list"]).lines().count(), 1);
    assert_eq!(git(&team.repository, &["status", "--porcelain"]), "");
    team.scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coder_that_lies_never_succeeds_and_nothing_is_merged() {
    for (lie, why) in [("lie", "nothing differs from"), ("broken", "gate tests did not pass")] {
        let (team, code) = Team::apply(lie, true).await;
        assert_eq!(code, 8, "{lie}");
        let coder = team.task("code-add").await;
        assert_eq!(coder["status"], "DEAD", "{lie}: {coder:#}");
        let attempts = coder["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "it was told why and tried again: {coder:#}");
        assert!(attempts.iter().all(|attempt| attempt["status"] == "FAILED"), "{coder:#}");
        assert!(attempts[0]["error"].as_str().unwrap().contains(why), "{coder:#}");
        assert_eq!(team.main(), [".gitignore", "base.py", "test_base.py"], "{lie}");
        team.scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reviewer_does_not_approve_is_not_merged() {
    let (team, code) = Team::apply("add", false).await;
    assert_eq!(code, 8);
    let review = team.task("review-add").await;
    assert_ne!(review["status"], "SUCCEEDED", "{review:#}");
    assert!(review["error"].as_str().unwrap().contains("gate approved did not pass"), "{review:#}");
    assert_eq!(team.task("code-add").await["status"], "SUCCEEDED");
    assert_eq!(team.main(), [".gitignore", "base.py", "test_base.py"]);
    team.scene.end().await;
}
