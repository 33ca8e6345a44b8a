//! Forged, expired and foreign tokens are refused; unsafe key files too.

use super::*;
use serde_json::json;
use std::os::unix::fs::PermissionsExt;

const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA";

fn tokens() -> (TokenKey, Tokens) {
    let key = TokenKey::generate().unwrap();
    let tokens = Tokens::new(&key, Duration::from_secs(3600));
    (key, tokens)
}

fn sign(key: &TokenKey, algorithm: Algorithm, claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_secret(&key.0);
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
}

#[test]
fn a_token_speaks_for_its_user_until_it_expires() {
    let (key, tokens) = tokens();
    let (user, now) = (UserId::generate(), Utc::now());
    let (token, expires_at) = tokens.issue(user, HASH, now).unwrap();
    assert_eq!(expires_at.timestamp(), now.timestamp() + 3600);
    let verified = tokens.verify(&token).unwrap();
    assert_eq!(verified.user, user);
    assert_eq!(verified.credential, credential(HASH));

    let (expired, _) = tokens
        .issue(user, HASH, now - TimeDelta::seconds(3602))
        .unwrap();
    assert_eq!(tokens.verify(&expired).unwrap_err().code(), "invalid_token");
    // It tells who had it for 30 days more, for as long as nobody changed it.
    assert_eq!(tokens.verify_earlier(&expired).unwrap().user, user);
    assert!(tokens.verify_earlier(&format!("{expired}x")).is_err());
    let month = TimeDelta::days(30);
    for (seconds, holds) in [(3540, true), (3660, false)] {
        let issued = now - month - TimeDelta::seconds(seconds);
        let (old, _) = tokens.issue(user, HASH, issued).unwrap();
        assert_eq!(tokens.verify_earlier(&old).is_ok(), holds, "{seconds}");
    }
    assert!(
        Tokens::new(&key, Duration::MAX)
            .issue(user, HASH, now)
            .is_ok()
    );
}

#[test]
fn the_claims_are_those_of_the_contract() {
    let (_, tokens) = tokens();
    let user = UserId::generate();
    let (token, _) = tokens.issue(user, HASH, Utc::now()).unwrap();
    let claims: serde_json::Value =
        jsonwebtoken::decode(&token, &tokens.verifying, &tokens.validation)
            .unwrap()
            .claims;
    assert_eq!(claims["sub"], user.to_string());
    assert_eq!(claims["user_id"], user.to_string());
    assert_eq!(claims["typ"], "access");
    assert!(claims["exp"].as_i64() > claims["iat"].as_i64());
}

#[test]
fn forged_tokens_are_refused() {
    let (key, tokens) = tokens();
    let (user, other, exp) = (
        UserId::generate(),
        UserId::generate(),
        Utc::now().timestamp() + 60,
    );
    let good =
        json!({"sub": user, "user_id": user, "typ": "access", "iat": 0, "exp": exp, "ver": ""});
    assert!(tokens.verify(&sign(&key, Algorithm::HS256, &good)).is_ok());

    let with = |field: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[field] = value;
        sign(&key, Algorithm::HS256, &claims)
    };
    let stranger = TokenKey::generate().unwrap();
    let signed = sign(&key, Algorithm::HS256, &good);
    let (unsigned, _) = signed.rsplit_once('.').unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{}.", signed.split('.').nth(1).unwrap());
    for (what, token) in [
        ("another key", sign(&stranger, Algorithm::HS256, &good)),
        ("another algorithm", sign(&key, Algorithm::HS512, &good)),
        ("no algorithm", none),
        ("no signature", format!("{unsigned}.")),
        ("another type", with("typ", json!("refresh"))),
        ("two users", with("user_id", json!(other))),
        ("no expiry", with("exp", json!(null))),
        ("no user", with("sub", json!("admin"))),
        ("empty", String::new()),
        ("not a token", "a.b.c".into()),
        ("long", "x".repeat(1 << 20)),
    ] {
        let error = tokens.verify(&token).expect_err(what);
        assert_eq!(error.code(), "invalid_token", "{what}");
    }
}

#[test]
fn a_key_is_made_once_and_kept_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secrets/jwt");
    let made = TokenKey::load_or_create(&path).unwrap();
    assert_eq!(made.0.len(), TokenKey::BYTES);
    assert_eq!(*made.0, *TokenKey::load_or_create(&path).unwrap().0);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(format!("{made:?}"), "TokenKey(..)");
}

#[test]
fn processes_that_make_a_key_at_once_agree() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwt");
    // What a second process does that lost the race: its file exists when it links.
    let first = TokenKey::load_or_create(&path).unwrap();
    TokenKey::create(&path).unwrap();
    assert_eq!(*first.0, *TokenKey::load(&path).unwrap().0);
}

#[test]
fn unsafe_keys_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |path: &Path, expected: &str| {
        let error = TokenKey::load_or_create(path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let path = directory.path().join("jwt");
    fs::write(&path, [7; 64]).unwrap();
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        refused(&path, "its mode is");
    }
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, private.clone()).unwrap();
    assert!(TokenKey::load_or_create(&path).is_ok());

    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    refused(&link, "symbolic link");
    refused(directory.path(), "not a regular file");

    let short = directory.path().join("short");
    fs::write(&short, [7; 31]).unwrap();
    fs::set_permissions(&short, private).unwrap();
    refused(&short, "less than 32 bytes");
}
