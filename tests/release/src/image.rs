//! `cargo dev image`: the container image that is published, on this machine.

mod twice;

use std::{
    env, fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use rig::{
    build::Profile,
    image::{DEFAULT_NAME, build, tagged, write},
    progress::Progress,
};

/// The build, and the output directory or file.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// Directory for the archive, the OCI layout and the bill of materials; or a file that ends in
    /// .tar, or '-' for standard output, for the archive alone
    #[arg(
        short,
        long,
        value_name = "DIR|FILE.tar|-",
        default_value = "target/image-out"
    )]
    output: PathBuf,
    /// Name of the image, with or without a tag; the tag is the version otherwise
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Use the debug build, which needs less time and much more space
    #[arg(long)]
    debug: bool,
    /// Build a second time in another directory and compare
    #[arg(long)]
    twice: bool,
}

/// Runs the command.
pub fn run(args: &ImageArgs, progress: &Progress) -> Result<()> {
    let profile = if args.debug {
        Profile::Dev
    } else {
        Profile::Release
    };
    let name = tagged(&args.name);
    let built = build(profile, &name, progress)?;
    if args.twice {
        ensure!(!args.debug, "only released images are reproducible");
        twice::compare(&built, &name, progress)?;
    }
    if args.output.as_os_str() == "-" {
        io::stdout().lock().write_all(&built.archive.to_tar()?)?;
        return Ok(());
    }
    let archive = if args
        .output
        .extension()
        .is_some_and(|extension| extension == "tar")
    {
        let archive = env::current_dir()?.join(&args.output);
        fs::write(&archive, built.archive.to_tar()?)
            .with_context(|| format!("failed to write {}", archive.display()))?;
        archive
    } else {
        write(&built, &env::current_dir()?.join(&args.output))?
    };
    progress.line(format_args!("{name}: {}", built.summary()?));
    progress.line(format_args!(
        "{} for docker load, kind load image-archive, ctr -n k8s.io images import, k3s ctr images \
         import; docs/install.md goes on",
        archive.display()
    ));
    Ok(())
}
