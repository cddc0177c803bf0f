//! Sections of the change log.

/// The text below the heading of a version; `None` without such a heading or text.
pub(super) fn section(log: &str, version: &str) -> Option<String> {
    let heading = format!("## [{version}]");
    let after = log.split_once(&heading)?.1;
    // The rest of the heading may have a date.
    let body = after.split_once('\n').map_or("", |(_, body)| body);
    let body = body.split("\n## [").next().unwrap_or(body).trim();
    (!body.is_empty()).then(|| format!("{body}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_ends_where_the_next_begins() {
        let log = "# Changelog\n\n## [Unreleased]\n\n## [1.1.0] - 2026-01-01\n\n### Added\n\n- b\n\n\
                   ## [1.0.0]\n\n- a\n";
        assert_eq!(section(log, "1.1.0").as_deref(), Some("### Added\n\n- b\n"));
        assert_eq!(section(log, "1.0.0").as_deref(), Some("- a\n"));
        assert_eq!(section(log, "Unreleased"), None, "an empty section");
        assert_eq!(section(log, "2.0.0"), None);
    }
}
