//! The schema is public: a change of it is a change of `gateway/schema.graphql`, seen in review.

use std::path::Path;

#[test]
fn the_schema_is_the_one_that_was_committed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/schema.graphql");
    let sdl = hiveward_gateway::schema::sdl();
    if std::env::var_os("HIVEWARD_RENEW_SCHEMA").is_some() {
        std::fs::write(&path, &sdl).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == sdl,
        "the schema changed; if that is meant, run: HIVEWARD_RENEW_SCHEMA=1 cargo nextest run -p hiveward the_schema_is_the_one"
    );
}
