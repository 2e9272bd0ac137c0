//! One kernel from source file to finished SPIR-V: the order of the pipeline.

use crate::reflect::Interface;
use crate::{compile, harden, reflect, refuse};
use rspirv::binary::Assemble;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A kernel's source file.
pub struct Source {
    /// The path as messages name it: relative to the crate's root, with forward slashes.
    pub path: String,
    /// The file name without `.comp`: the kernel's name everywhere.
    pub stem: String,
    pub text: String,
}

impl Source {
    /// True unless the shader opts out of the exact contract by a line `#pragma hlx fast`.
    pub fn is_exact(&self) -> bool {
        !self.text.lines().any(|line| line.split_whitespace().eq(["#pragma", "hlx", "fast"]))
    }
}

/// A finished kernel.
pub struct Kernel {
    pub path: String,
    pub stem: String,
    pub exact: bool,
    pub interface: Interface,
    /// The final SPIR-V.
    pub words: Vec<u32>,
    /// What the GLSL compiler had to say about a shader it accepted, one line each.
    pub warnings: Vec<String>,
}

impl Kernel {
    /// Hexadecimal FNV-1a (64 bits) of the SPIR-V's bytes, little-endian.
    /// <http://www.isthe.com/chongo/tech/comp/fnv/>
    pub fn hash(&self) -> String {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("{hash:016x}")
    }
}

/// Builds one kernel.
pub fn build(source: &Source, include_dir: &Path) -> Result<Kernel, String> {
    let exact = source.is_exact();
    let compiled = compile::to_spirv(source, include_dir)?;
    let mut module = compiled.module;
    if exact {
        refuse::check(&module, &compiled.files)?;
        harden::keep_arithmetic_as_written(&mut module);
    }
    harden::declare_aliases(&mut module);
    let interface = reflect::interface(&module, &source.path)?;
    let Source { path, stem, .. } = source;
    Ok(Kernel {
        path: path.clone(),
        stem: stem.clone(),
        exact,
        interface,
        words: module.assemble(),
        warnings: compiled.warnings,
    })
}

/// Builds every `*.comp` of a folder on all cores, in the order of their names. The error holds
/// what is wrong with every kernel that failed, not only the first.
pub fn build_all(shaders: &Path) -> Result<Vec<Kernel>, String> {
    let sources = read_sources(shaders)?;
    let include_dir = shaders.join("include");
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(sources.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            done.push((&source.stem, build(source, &include_dir)));
        }
        done
    };
    let mut results: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|w| w.join().expect("a shader compiling thread panicked")).collect()
    });
    results.sort_by_key(|(stem, _)| *stem);

    let (mut kernels, mut errors) = (Vec::new(), Vec::new());
    for (_, result) in results {
        match result {
            Ok(kernel) => kernels.push(kernel),
            Err(message) => errors.push(message),
        }
    }
    if errors.is_empty() { Ok(kernels) } else { Err(errors.join("\n")) }
}

fn read_sources(shaders: &Path) -> Result<Vec<Source>, String> {
    let folder = shaders.to_string_lossy().replace('\\', "/");
    let cannot_read = |error: std::io::Error| format!("cannot read {folder}: {error}");
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(shaders).map_err(cannot_read)? {
        let file = entry.map_err(cannot_read)?.path();
        if file.extension().is_some_and(|extension| extension == "comp") {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let path = format!("{folder}/{stem}.comp");
            let text =
                std::fs::read_to_string(&file).map_err(|error| format!("cannot read {path}: {error}"))?;
            sources.push(Source { path, stem, text });
        }
    }
    Ok(sources)
}
