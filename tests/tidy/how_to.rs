//! Promise: a noun is added as the how-to says, by that many files.

use std::process::Command;

use crate::root;

/// The most files of the product that a noun touches.
const FILES_MAX: usize = 9;

#[test]
fn a_noun_touches_no_more_files_than_the_how_to_says_and_can_still_be_added() {
    let patch = root().join("tests/how_to/note.patch");
    let text = std::fs::read_to_string(&patch).unwrap();
    let files: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("+++ b/")).collect();
    let product: Vec<_> = files.iter().filter(|file| !file.contains("tests/")).collect();
    assert!(product.len() <= FILES_MAX, "{product:?}");
    assert!(files.len() > product.len(), "the noun has no test");
    let page = std::fs::read_to_string(root().join("docs/how_to/add_a_noun.md")).unwrap();
    for file in product {
        let named = file.replace("note.rs", "<noun>.rs");
        assert!(page.contains(&named), "the how-to does not name {named}");
    }
    let checked = Command::new("git").arg("-C").arg(root()).args(["apply", "--check"]).arg(&patch).output().unwrap();
    assert!(checked.status.success(), "make it anew: {}", String::from_utf8_lossy(&checked.stderr));
}
