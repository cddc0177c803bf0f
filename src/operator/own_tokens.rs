//! Tokens of the operator's ServiceAccount for audiences outside of the cluster. The kubelet writes them into
//! the operator's pod, one file for each audience, and replaces them before they expire.

use std::{fs, path::Path};

use crate::tailnet_api::IdentityToken;

/// Largest file that is read as a token, in bytes.
const LARGEST: u64 = 64 << 10;

/// Returns the token for an audience among the files of a directory. Other files are ignored.
pub fn find(dir: &Path, audience: &str) -> Option<IdentityToken> {
    let files = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    // Files of a projected volume are symbolic links.
    let is_small = |path: &Path| {
        let metadata = fs::metadata(path);
        metadata.is_ok_and(|file| file.is_file() && file.len() <= LARGEST)
    };
    let mut tokens = files
        .map(|file| file.path())
        .filter(|path| is_small(path))
        .filter_map(|path| IdentityToken::parse(&fs::read_to_string(path).ok()?));
    tokens.find(|token| token.claims.is_for(audience))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

    use super::*;

    #[test]
    fn the_token_for_an_audience_is_found_among_others() {
        let dir = tempfile::tempdir().unwrap();
        let token = |name: &str| {
            let claims = format!(r#"{{"iss":"i","sub":"s","aud":["{name}"]}}"#);
            format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
        };
        for (file, text) in [
            ("0", token("first")),
            ("1", token("second")),
            ("2", "x".into()),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        fs::create_dir(dir.path().join("..data")).unwrap();
        for name in ["first", "second"] {
            assert!(find(dir.path(), name).unwrap().claims.is_for(name));
        }
        assert!(find(dir.path(), "third").is_none());
        assert!(find(&dir.path().join("missing"), "first").is_none());
    }
}
