//! The scripts that sessions run in guests. There are no others: the node's desk passes on what is one of them, with whatever
//! arguments.

/// Runs "$@" with its input and output in files of the directory `$1`, and ends as it does. `$2` says what its input is: `pipe`
/// is held open by a process of its own until that is ended.
pub const PROGRAM: &str = r#"
dir=$1; input=$2; cwd=$3; shift 3
cd "$cwd" || exit 126
case $input in
pipe)
  mkfifo "$dir/in" || exit 126
  sleep 2147483647 >"$dir/in" &
  echo $! >"$dir/holder"
  input=$dir/in ;;
file) input=$dir/in ;;
*) input=/dev/null ;;
esac
if command -v setsid >/dev/null 2>&1; then set -- setsid "$@"; fi
"$@" <"$input" >"$dir/out" 2>"$dir/err" &
program=$!
echo $program >"$dir/pid.new" && mv "$dir/pid.new" "$dir/pid"
wait $program
code=$?
if [ -e "$dir/holder" ]; then kill "$(cat "$dir/holder")" 2>/dev/null; fi
exit $code
"#;
/// Sends a signal to the whole group; to the program alone where it leads none.
pub const KILL: &str = r#"pid=$(cat "$2/pid") && { kill -"$1" -"$pid" 2>/dev/null || kill -"$1" "$pid"; }"#;
pub const END_INPUT: &str = r#"kill "$(cat "$1/holder")""#;
pub const DIRECTORY: &str = r#"mkdir -p "$1""#;
pub const OWN_DIRECTORY: &str = r#"mkdir -p "$1" && : >"$1/out" && : >"$1/err""#;
pub const PACK: &str = r#"cd "$1" && tar -cf "$2" ."#;
pub const UNPACK: &str = r#"tar -xf "$2" -C "$1" && rm -f "$2""#;

pub const ALL: [&str; 7] = [PROGRAM, KILL, END_INPUT, DIRECTORY, OWN_DIRECTORY, PACK, UNPACK];

const INPUT_HEAD: &str = "cat >";
const INPUT_TAIL: &str = "/in";

/// Returns the script that brings what it reads to the program, through the pipe in this directory. Sessions of before have it
/// so, without arguments.
pub fn into_input(dir: &str) -> String {
    format!("{INPUT_HEAD}{dir}{INPUT_TAIL}")
}

/// Tells whether sessions have this script.
pub fn is_own(script: &str) -> bool {
    // Nothing in the path that a shell would take for more than a path.
    let is_plain = |path: &str| path.chars().all(|letter| letter.is_alphanumeric() || "/_.-:@%+=,".contains(letter));
    let into = script.strip_prefix(INPUT_HEAD).and_then(|rest| rest.strip_suffix(INPUT_TAIL));
    ALL.contains(&script) || into.is_some_and(|path| path.starts_with('/') && is_plain(path))
}
