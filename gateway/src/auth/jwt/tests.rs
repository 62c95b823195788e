use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{keys::BadKeys, verify::verify, *};

const SECRET: &[u8] = b"a secret of which both know, of 40 bytes";
const NOW: WallMs = WallMs(1_800_000_000_000);

fn issuer(algorithms: &[Algorithm]) -> Issuer {
    Issuer {
        name: "corp".into(),
        issuer: "https://id.example".into(),
        audience: vec!["hiveward".into()],
        algorithms: algorithms.to_vec(),
        leeway_ms: 0,
        max_lifetime_ms: config::LIFETIME_MS_DEFAULT,
        name_claim: "sub".into(),
        roles_claim: "role".into(),
        groups_claim: "groups".into(),
        roles: [
            ("admin".to_owned(), hiveward_access::role::Role::Admin),
            ("user".to_owned(), hiveward_access::role::Role::TaskCreator),
        ]
        .into(),
    }
}

fn good() -> Value {
    let now = NOW.0 / 1000;
    json!({ "iss": "https://id.example", "aud": "hiveward", "sub": "ann", "iat": now - 60, "exp": now + 600, "role": "user" })
}

fn with(change: Value) -> Value {
    let mut claims = good();
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn part(text: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// Signs with the secret whatever header and claims these are.
fn signed(header: &str, claims: &str) -> String {
    by(&EncodingKey::from_secret(SECRET), Algorithm::HS256, header, claims)
}

fn by(key: &EncodingKey, algorithm: Algorithm, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

const HS: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

fn secret_keys() -> KeySet {
    KeySet::secret(SECRET).unwrap()
}

/// A key of the kind, as who signs has it and as others know it.
struct Pair {
    algorithm: Algorithm,
    private: EncodingKey,
    public_pem: String,
    jwk: Value,
}

/// Makes a key of one of the kinds that are taken. An RSA key takes a while, and is made once.
fn pair(algorithm: Algorithm) -> Pair {
    use rcgen::PublicKeyData;
    let kind = match algorithm {
        Algorithm::RS256 => &rcgen::PKCS_RSA_SHA256,
        Algorithm::ES256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        _ => &rcgen::PKCS_ED25519,
    };
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    let (der, pem) = (key.serialize_der(), key.public_key_pem());
    let raw = key.der_bytes().to_vec();
    let (private, jwk) = match algorithm {
        Algorithm::RS256 => {
            let private = EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap();
            let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&private, algorithm).unwrap();
            (private, serde_json::to_value(jwk).unwrap())
        }
        Algorithm::ES256 => {
            let (x, y) = (part(&raw[1..33]), part(&raw[33..65]));
            (EncodingKey::from_ec_der(&der), json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y }))
        }
        _ => (EncodingKey::from_ed_der(&der), json!({ "kty": "OKP", "crv": "Ed25519", "x": part(&raw) })),
    };
    Pair { algorithm, private, public_pem: pem, jwk }
}

fn header_of(algorithm: Algorithm, kid: Option<&str>) -> String {
    let mut header = json!({ "alg": config::name_of(algorithm), "typ": "JWT" });
    if let Some(kid) = kid {
        header["kid"] = json!(kid);
    }
    header.to_string()
}

fn set(keys: &[(&str, &Pair)]) -> Vec<u8> {
    let keys: Vec<_> = keys
        .iter()
        .map(|(kid, pair)| {
            let mut jwk = pair.jwk.clone();
            jwk["kid"] = json!(kid);
            jwk["use"] = json!("sig");
            jwk
        })
        .collect();
    serde_json::to_vec(&json!({ "keys": keys })).unwrap()
}

#[test]
fn a_good_token_of_each_algorithm_is_of_its_user_with_his_roles() {
    let checked = |token: &str, issuer: &Issuer, keys: &KeySet| {
        let verified = verify(token, issuer, keys, NOW).unwrap();
        assert_eq!(
            (verified.name.as_str(), &*verified.roles),
            ("user:corp/ann", &[hiveward_access::role::Role::TaskCreator][..])
        );
        assert_eq!(verified.until, WallMs(NOW.0 + 600_000));
    };
    checked(&signed(HS, &good().to_string()), &issuer(&[Algorithm::HS256]), &secret_keys());
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let pair = pair(algorithm);
        let issuer = issuer(&[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
        let token = by(&pair.private, algorithm, &header_of(algorithm, Some("k1")), &good().to_string());
        checked(&token, &issuer, &KeySet::jwks(&set(&[("k1", &pair)])).unwrap());
        checked(&token, &issuer, &KeySet::pem(pair.public_pem.as_bytes()).unwrap());
    }
}

/// Tokens for an issuer with a secret whose form or signature is wrong, each in one way.
fn of_a_wrong_form() -> Vec<(&'static str, String)> {
    let claims = good().to_string();
    let changed = |change: Value| signed(HS, &with(change).to_string());
    let fine = signed(HS, &claims);
    let parts: Vec<&str> = fine.split('.').collect();
    let other = signed(HS, &with(json!({ "sub": "bob" })).to_string());
    let header = |text: &str| signed(text, &claims);
    let none = |alg: &str| format!("{}.{}.", part(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#)), part(&claims));
    let huge = "x".repeat(9 << 10);
    let deep = format!("{}1{}", "[".repeat(400), "]".repeat(400));
    vec![
        ("no algorithm", none("none")),
        ("no algorithm, in capitals", none("NONE")),
        ("no algorithm, in both", none("nOnE")),
        ("no algorithm and a signature", format!("{}{}", none("none"), parts[2])),
        ("an empty algorithm", header(r#"{"alg":"","typ":"JWT"}"#)),
        ("an algorithm that is a list", header(r#"{"alg":["HS256"],"typ":"JWT"}"#)),
        ("an algorithm that is null", header(r#"{"alg":null}"#)),
        ("no algorithm at all", header(r#"{"typ":"JWT"}"#)),
        ("another hash", by(&EncodingKey::from_secret(SECRET), Algorithm::HS384, r#"{"alg":"HS384"}"#, &claims)),
        ("an algorithm in small letters", header(r#"{"alg":"hs256"}"#)),
        ("the algorithm twice", header(r#"{"alg":"none","alg":"HS256"}"#)),
        ("a claim twice", signed(HS, &claims.replacen('{', r#"{"sub":"admin","#, 1))),
        (
            "another secret",
            by(&EncodingKey::from_secret(b"another secret of which nobody knows it"), Algorithm::HS256, HS, &claims),
        ),
        ("an empty secret", by(&EncodingKey::from_secret(b""), Algorithm::HS256, HS, &claims)),
        ("the signature of another token", format!("{}.{}.{}", parts[0], parts[1], other.rsplit('.').next().unwrap())),
        ("the claims of another token", format!("{}.{}.{}", parts[0], other.split('.').nth(1).unwrap(), parts[2])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("no third part", format!("{}.{}", parts[0], parts[1])),
        ("a fourth part", format!("{fine}.{}", parts[2])),
        ("five parts", format!("{fine}.{}.{}", parts[1], parts[2])),
        ("a signature that is cut", fine[..fine.len() - 2].to_owned()),
        ("padding", format!("{fine}=")),
        ("white space before", format!(" {fine}")),
        ("a line's end", format!("{fine}\n")),
        ("a zero byte", format!("{fine}\0")),
        ("the other alphabet", format!("{}.{}.{}", parts[0], parts[1], parts[2].replace('-', "+").replace('_', "/") + "+")),
        ("no text", String::new()),
        ("dots", "..".into()),
        ("text of another kind", "ä.ö.ü".into()),
        ("too large a token", changed(json!({ "more": huge }))),
        ("too deep claims", signed(HS, &claims.replacen('{', &format!(r#"{{"deep":{deep},"#), 1))),
        ("claims that are a list", signed(HS, "[]")),
        ("claims that are no JSON", signed(HS, "{")),
        ("a header that is no JSON", signed("{", &claims)),
    ]
}

/// Tokens for an issuer with a secret that say what they may not, each in one way.
fn of_wrong_claims() -> Vec<(&'static str, String)> {
    let now = NOW.0 / 1000;
    let changed = |change: Value| signed(HS, &with(change).to_string());
    vec![
        ("another issuer", changed(json!({ "iss": "https://evil.example" }))),
        ("an issuer with a slash more", changed(json!({ "iss": "https://id.example/" }))),
        ("an issuer that is a list", changed(json!({ "iss": ["https://id.example"] }))),
        ("no issuer", changed(json!({ "iss": null }))),
        ("another audience", changed(json!({ "aud": "billing" }))),
        ("an audience that begins alike", changed(json!({ "aud": "hiveward-test" }))),
        ("a list of other audiences", changed(json!({ "aud": ["a", "b"] }))),
        ("a list of audiences that is not all text", changed(json!({ "aud": ["hiveward", 1] }))),
        ("an empty list of audiences", changed(json!({ "aud": [] }))),
        ("no audience", changed(json!({ "aud": null }))),
        ("an audience that is an object", changed(json!({ "aud": { "hiveward": true } }))),
        ("over", changed(json!({ "exp": now - 1 }))),
        ("over just now", changed(json!({ "exp": now }))),
        ("no end", changed(json!({ "exp": null }))),
        ("an end that is text", changed(json!({ "exp": (now + 600).to_string() }))),
        ("an end before all time", changed(json!({ "exp": -1 }))),
        ("an end after all time", changed(json!({ "exp": 1e300 }))),
        ("an end that is a list", changed(json!({ "exp": [now + 600] }))),
        ("not yet", changed(json!({ "nbf": now + 5 }))),
        ("a beginning that is text", changed(json!({ "nbf": "0" }))),
        ("issued in the future", changed(json!({ "iat": now + 5 }))),
        ("no moment of issue", changed(json!({ "iat": null }))),
        ("a moment of issue that is true", changed(json!({ "iat": true }))),
        ("too long a life", changed(json!({ "exp": now + 90_000 }))),
        ("no user", changed(json!({ "sub": null }))),
        ("an empty user", changed(json!({ "sub": "" }))),
        ("a user that is a number", changed(json!({ "sub": 7 }))),
        ("a user with a line's end", changed(json!({ "sub": "ann\nadmin" }))),
        ("a user with too long a name", changed(json!({ "sub": "a".repeat(129) }))),
    ]
}

/// Tokens for an issuer with a secret whose header asks for something, each for one thing.
fn of_a_wrong_header() -> Vec<(&'static str, String)> {
    let claims = good().to_string();
    let header = |text: &str| signed(text, &claims);
    vec![
        ("a key in the header", header(r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#)),
        ("a URL of keys in the header", header(r#"{"alg":"HS256","jku":"https://evil.example/keys"}"#)),
        ("a URL of certificates", header(r#"{"alg":"HS256","x5u":"https://evil.example/c"}"#)),
        ("certificates in the header", header(r#"{"alg":"HS256","x5c":["AA"]}"#)),
        ("something critical", header(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#)),
        ("an empty list of critical things", header(r#"{"alg":"HS256","crit":[]}"#)),
        ("another type", header(r#"{"alg":"HS256","typ":"logout+jwt"}"#)),
        ("a type that is a number", header(r#"{"alg":"HS256","typ":1}"#)),
        ("a token within it", header(r#"{"alg":"HS256","cty":"JWT"}"#)),
        ("encrypted", header(r#"{"alg":"HS256","enc":"A128GCM"}"#)),
        ("compressed", header(r#"{"alg":"HS256","zip":"DEF"}"#)),
        ("a body that is not encoded", header(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#)),
        ("a key's id that is empty", header(r#"{"alg":"HS256","kid":""}"#)),
        ("a key's id that is huge", header(&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(300)))),
        ("a key's id that is a number", header(r#"{"alg":"HS256","kid":1}"#)),
    ]
}

/// Tokens for an issuer with a secret, each wrong in one way.
fn against_a_secret() -> Vec<(&'static str, String)> {
    [of_a_wrong_form(), of_wrong_claims(), of_a_wrong_header()].concat()
}

/// Tokens for an issuer with public keys, each wrong in one way.
fn against_public_keys(one: &Pair, rsa: &Pair, stranger: &Pair) -> Vec<(&'static str, String)> {
    let claims = good().to_string();
    let es = |kid: Option<&str>| by(&one.private, one.algorithm, &header_of(one.algorithm, kid), &claims);
    let fine = es(Some("one"));
    let message = fine.rsplit_once('.').unwrap().0.to_owned();
    let confused = |secret: &[u8]| {
        by(&EncodingKey::from_secret(secret), Algorithm::HS256, &header_of(Algorithm::HS256, Some("one")), &claims)
    };
    let claimed = |algorithm, kid| by(&one.private, one.algorithm, &header_of(algorithm, kid), &claims);
    vec![
        ("the public key as a secret", confused(one.public_pem.as_bytes())),
        ("the public key of RSA as a secret", confused(rsa.public_pem.as_bytes())),
        ("the public key's line ends cut", confused(one.public_pem.trim().as_bytes())),
        ("the key set as a secret", confused(&set(&[("one", one)]))),
        (
            "a key that nobody knows",
            by(&stranger.private, stranger.algorithm, &header_of(stranger.algorithm, Some("one")), &claims),
        ),
        ("a key's id that nobody knows", es(Some("two"))),
        ("a key's id that is a path", es(Some("../../../../dev/null"))),
        ("a key's id that is a URL", es(Some("https://evil.example/keys#one"))),
        ("a key's id that is a question", es(Some("one' OR '1'='1"))),
        ("a key's id with a zero byte", es(Some("one\u{0}"))),
        ("a key's id in capitals", es(Some("ONE"))),
        ("the id of another key", es(Some("rsa"))),
        ("another algorithm than the key's", claimed(Algorithm::EdDSA, Some("one"))),
        ("the algorithm of another key", claimed(Algorithm::RS256, Some("rsa"))),
        ("a signature of zeros", format!("{message}.{}", part([0; 64]))),
        ("a signature of ones", format!("{message}.{}", part([0xff; 64]))),
        ("an empty signature of a curve", format!("{message}.{}", part([]))),
        ("half a signature", format!("{message}.{}", part([1; 32]))),
    ]
}

#[test]
fn no_attack_of_the_corpus_is_taken_for_a_token() {
    let secret = against_a_secret();
    let (one, rsa, stranger) = (pair(Algorithm::ES256), pair(Algorithm::RS256), pair(Algorithm::ES256));
    let public = against_public_keys(&one, &rsa, &stranger);
    assert!(secret.len() + public.len() >= 60, "{} attacks", secret.len() + public.len());
    let (of_secret, of_public) = (issuer(&[Algorithm::HS256]), issuer(&[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]));
    let keys = KeySet::jwks(&set(&[("one", &one), ("rsa", &rsa)])).unwrap();
    for (attack, token) in &secret {
        let accepted = verify(token, &of_secret, &secret_keys(), NOW);
        assert!(accepted.is_err(), "{attack}: {accepted:?}");
    }
    for (attack, token) in secret.iter().chain(&public) {
        let accepted = verify(token, &of_public, &keys, NOW);
        assert!(accepted.is_err(), "{attack}, against public keys: {accepted:?}");
    }
    eprintln!("{} attacks, 0 accepted", secret.len() + public.len());
}

#[test]
fn roles_are_those_that_the_configuration_gives_to_values_and_no_others() {
    use hiveward_access::role::Role;
    let issuer = issuer(&[Algorithm::HS256]);
    for (claim, roles) in [
        (json!("admin"), vec![Role::Admin]),
        (json!(["user", "admin", "user", "root"]), vec![Role::TaskCreator, Role::Admin]),
        (json!("Admin"), vec![]),
        (json!("operator"), vec![]),
        (json!({ "admin": true }), vec![]),
        (json!(["admin", 1]), vec![]),
        (json!(null), vec![]),
        (json!("admin,user"), vec![]),
    ] {
        let token = signed(HS, &with(json!({ "role": claim })).to_string());
        assert_eq!(verify(&token, &issuer, &secret_keys(), NOW).unwrap().roles, roles, "{claim}");
    }
    let nested = Issuer { roles_claim: "realm_access.roles".into(), ..issuer };
    let token = signed(HS, &with(json!({ "realm_access": { "roles": ["admin"] } })).to_string());
    assert_eq!(verify(&token, &nested, &secret_keys(), NOW).unwrap().roles, [Role::Admin]);
}

#[test]
fn keys_that_are_too_short_of_another_kind_or_for_another_use_are_not_taken() {
    assert_eq!(KeySet::secret(b"short").err(), Some(BadKeys::ShortSecret));
    let one = pair(Algorithm::ES256);
    let alone = |key: Value| KeySet::jwks(&serde_json::to_vec(&json!({ "keys": [key] })).unwrap()).err();
    let mut encrypts = one.jwk.clone();
    encrypts["use"] = json!("enc");
    assert_eq!(alone(encrypts), Some(BadKeys::None));
    let mut otherwise = one.jwk.clone();
    otherwise["alg"] = json!("RS256");
    assert_eq!(alone(otherwise), Some(BadKeys::None));
    assert_eq!(alone(json!({ "kty": "oct", "k": part(SECRET) })), Some(BadKeys::None));
    assert_eq!(alone(json!({ "kty": "RSA", "n": part([0xc5; 128]), "e": "AQAB" })), Some(BadKeys::None), "1,024 bits");
    assert_eq!(alone(json!({ "kty": "EC", "crv": "P-384", "x": part([1; 48]), "y": part([1; 48]) })), Some(BadKeys::None));
    let many: Vec<_> = (0..65).map(|_| one.jwk.clone()).collect();
    assert_eq!(KeySet::jwks(&serde_json::to_vec(&json!({ "keys": many })).unwrap()).err(), Some(BadKeys::TooMany));
    assert_eq!(KeySet::jwks(&vec![b' '; KEY_SET_BYTES_MAX + 1]).err(), Some(BadKeys::TooMany));
    assert!(matches!(KeySet::jwks(b"{}").err(), Some(BadKeys::Form(_))));
}

fn configured(text: &str) -> Result<Issuers, String> {
    let config: IssuerConfig = serde_json::from_str(text).map_err(|error| error.to_string())?;
    Issuers::start(&[config]).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_wrong_issuer_is_refused_with_what_is_wrong() {
    let base = r#""name":"corp","issuer":"https://id.example","audience":["hiveward"]"#;
    for (more, says) in [
        ("", "exactly one"),
        (r#","secret":"short""#, "at least 32 bytes"),
        (r#","secret":"0123456789abcdef0123456789abcdef","algorithms":["RS256"]"#, "with a secret it is HS256"),
        (r#","jwks_url":"https://id.example/k","algorithms":["HS256"]"#, "with public keys"),
        (r#","jwks_url":"http://id.example/k""#, "https, or http on this machine"),
        (r#","jwks_url":"https://id.example/k","leeway_ms":90000"#, "at most 60000"),
        (r#","jwks_url":"https://id.example/k","roles":{"user":"boss"}"#, "is no role"),
        (r#","jwks_url":"https://id.example/k","secrets":"x""#, "unknown field"),
        (r#","public_key_file":"/nowhere""#, "cannot be read"),
    ] {
        let error = configured(&format!("{{{base}{more}}}")).err().unwrap_or_else(|| panic!("{more} was taken"));
        assert!(error.contains(says), "{more}: {error}");
        assert!(!error.contains("0123456789abcdef"), "{error}");
    }
}

/// A provider on this machine that answers as it is told.
struct Provider {
    url: String,
    says: Arc<Mutex<(u16, Vec<u8>)>>,
    _serving: AbortOnDropHandle<()>,
}

impl Provider {
    async fn start(keys: Vec<u8>) -> Self {
        let says = Arc::new(Mutex::new((200, keys)));
        let now = says.clone();
        let answer = move || {
            let (status, body) = now.lock().clone();
            std::future::ready((axum::http::StatusCode::from_u16(status).unwrap(), body))
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/keys", axum::routing::get(answer));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, says, _serving: AbortOnDropHandle::new(serving) }
    }

    fn says(&self, status: u16, body: Vec<u8>) {
        *self.says.lock() = (status, body);
    }
}

#[tokio::test]
async fn what_a_provider_says_is_read_within_bounds_and_nothing_else_is_believed() {
    let one = pair(Algorithm::ES256);
    let provider = Provider::start(set(&[("one", &one)])).await;
    let url = Url::parse(&provider.url).unwrap();
    assert!(read(&url).await.unwrap().find(Some("one"), Algorithm::ES256).is_some());
    provider.says(302, Vec::new());
    assert!(read(&url).await.is_err());
    provider.says(200, b"<html>".to_vec());
    assert!(read(&url).await.is_err());
    provider.says(200, vec![b' '; KEY_SET_BYTES_MAX + 1]);
    assert!(read(&url).await.is_err());
    provider.says(500, set(&[("one", &one)]));
    assert!(read(&url).await.is_err());
}

#[tokio::test]
async fn keys_of_before_count_while_a_provider_fails_and_it_is_told() {
    let one = pair(Algorithm::ES256);
    let provider = Provider::start(set(&[("one", &one)])).await;
    let held = Arc::new(Held::default());
    let url = Url::parse(&provider.url).unwrap();
    let reading = AbortOnDropHandle::new(tokio::spawn(read_on(url, "corp".into(), held.clone())));
    while held.keys.load().is_none() {
        tokio::task::yield_now().await;
    }
    let known = Known { issuer: issuer(&[Algorithm::ES256]), held: held.clone(), _reading: Some(reading) };
    let issuers = Issuers(Arc::new(vec![known]));
    let token = by(&one.private, one.algorithm, &header_of(one.algorithm, Some("one")), &good().to_string());
    assert_eq!(&*issuers.principal(&token, NOW).unwrap().name, "user:corp/ann");
    *held.failure.lock() = Some("it does not answer".into());
    assert_eq!(issuers.failures(), [("corp".to_owned(), "it does not answer".to_owned())]);
    assert_eq!(&*issuers.principal(&token, NOW).unwrap().name, "user:corp/ann");
    // Those of the day before do not.
    let old = held.keys.load_full().unwrap();
    let Some(long_ago) = Instant::now().checked_sub(STALE_AFTER) else { return };
    held.keys.store(Some(Arc::new((KeySet::jwks(&set(&[("one", &one)])).unwrap(), long_ago))));
    assert!(issuers.principal(&token, NOW).is_err());
    drop(old);
}

proptest! {
    /// A token has one text: whichever byte of it is another, it is refused.
    #[test]
    fn a_token_of_which_one_byte_is_another_is_refused(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let token = signed(HS, &good().to_string());
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert!(verify(&changed, &issuer(&[Algorithm::HS256]), &secret_keys(), NOW).is_err());
        }
    }
}
