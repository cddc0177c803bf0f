//! Message of a command that has failed.

/// Returns an error with its causes on one line. Libraries repeat a cause in the text of its effect,
/// so a cause that was told is left out.
pub(super) fn line(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for text in error.chain().map(ToString::to_string) {
        let text = text.trim_end_matches(['.', '\n']);
        if told.is_empty() {
            text.clone_into(&mut told);
        } else if !told.contains(text) {
            told = format!("{told}: {text}");
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn each_cause_is_told_once() {
        let error = anyhow!("no such file")
            .context("failed to read a: no such file")
            .context("failed to start");
        assert_eq!(
            line(&error),
            "failed to start: failed to read a: no such file"
        );
        assert_eq!(line(&anyhow!("alone")), "alone");
    }
}
