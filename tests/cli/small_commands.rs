//! Commands about the program itself.

use crate::program::Program;

#[test]
fn version_is_a_command_and_a_flag() {
    let command = Program::new(&["version"]).run();
    assert_eq!((command.code, &*command.err), (Some(0), ""));
    assert!(
        command.out.contains(env!("CARGO_PKG_VERSION")),
        "{}",
        command.out
    );
    assert_eq!(command.out, Program::new(&["--version"]).run().out);
}

#[test]
fn completion_is_written_for_each_shell() {
    for (shell, contains) in [
        ("bash", "complete -F _peerrelay"),
        ("zsh", "#compdef peerrelay"),
        ("fish", "complete -c peerrelay"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let run = Program::new(&["completion", shell]).run();
        assert_eq!((run.code, &*run.err), (Some(0), ""), "{shell}");
        assert!(run.out.contains(contains), "{shell}: {}", run.out);
        assert!(run.out.contains("validate"), "{shell}");
        assert!(!run.out.contains("prepare-state"), "{shell}: it is hidden");
    }
    let run = Program::new(&["completion", "tcsh"]).run();
    assert_eq!(run.code, Some(2));
    assert!(run.err.contains("[possible values: bash"), "{}", run.err);
}

#[test]
fn manual_has_a_page_for_each_command() {
    let run = Program::new(&["man"]).run();
    assert_eq!((run.code, &*run.err), (Some(0), ""));
    assert!(run.out.contains(".TH peerrelay 1"), "{}", run.out);
    let page = Program::new(&["man", "validate"]).run();
    assert!(page.out.contains("peerrelay\\-validate"), "{}", page.out);
    assert_eq!(Program::new(&["man", "nothing"]).run().code, Some(2));
}
