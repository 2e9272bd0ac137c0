//! GLSL to SPIR-V for Vulkan, with messages that name the file at fault.

use crate::kernel::Source;
use glslang::error::GlslangError;
use glslang::include::{IncludeHandler, IncludeResult, IncludeType};
use glslang::{
    Compiler, CompilerOptions, Shader, ShaderInput, ShaderMessage, ShaderSource, ShaderStage, SourceLanguage,
    SpirvVersion, Target, VulkanVersion,
};
use std::path::Path;

/// A file that a kernel was compiled from.
pub struct File {
    /// As messages name it.
    pub path: String,
    pub text: String,
}

/// What the compiler made of a kernel.
pub struct Compiled {
    pub module: rspirv::dr::Module,
    /// The shader itself, then what it includes, in the order of inclusion.
    pub files: Vec<File>,
    /// Remarks about accepted code, one line each.
    pub warnings: Vec<String>,
}

/// Compiles one kernel; `#include "x"` means `include_dir/x` wherever it is written.
pub fn to_spirv(source: &Source, include_dir: &Path) -> Result<Compiled, String> {
    let compiler = Compiler::acquire().ok_or("the GLSL compiler does not start")?;
    let options = CompilerOptions {
        source_language: SourceLanguage::GLSL,
        target: target(source),
        version_profile: None,
        messages: ShaderMessage::CASCADING_ERRORS | ShaderMessage::DISPLAY_ERROR_COLUMN,
    };
    let mut includes = Includes { folder: include_dir, files: Vec::new() };
    let compiled = compile(compiler, source, &options, &mut includes);

    let (words, log) = compiled.map_err(|error| failure(&error, source))?;
    let module = rspirv::dr::load_words(words)
        .map_err(|error| format!("{}: cannot parse the compiled SPIR-V: {error}", source.path))?;
    let mut files = vec![File { path: source.path.clone(), text: source.text.clone() }];
    files.extend(includes.files);
    Ok(Compiled { module, files, warnings: message_lines(&log, &source.path) })
}

/// Vulkan 1.2, which every device has that hlx runs on, but for kernels that need what came later: the
/// devices that have it have Vulkan 1.3.
fn target(source: &Source) -> Target {
    if source.text.contains("GL_NV_cooperative_matrix2") {
        Target::Vulkan { version: VulkanVersion::Vulkan1_3, spirv_version: SpirvVersion::SPIRV1_6 }
    } else {
        Target::Vulkan { version: VulkanVersion::Vulkan1_2, spirv_version: SpirvVersion::SPIRV1_5 }
    }
}

fn compile(
    compiler: &Compiler,
    source: &Source,
    options: &CompilerOptions,
    includes: &mut Includes<'_>,
) -> Result<(Vec<u32>, String), GlslangError> {
    let text = ShaderSource::from(source.text.as_str());
    let no_defines = None::<&[(&str, Option<&str>)]>;
    let input = ShaderInput::new(&text, ShaderStage::Compute, options, no_defines, Some(includes))?;
    let shader = Shader::new(compiler, input).parse()?;
    Ok((shader.compile()?, shader.get_log()))
}

/// Reads include files and remembers them.
struct Includes<'a> {
    folder: &'a Path,
    files: Vec<File>,
}

impl IncludeHandler for Includes<'_> {
    fn include(&mut self, _: IncludeType, header: &str, _: &str, _: usize) -> Option<IncludeResult> {
        let file = self.folder.join(header);
        let path = file.to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(file).ok()?;
        if !self.files.iter().any(|file| file.path == path) {
            self.files.push(File { path: path.clone(), text: text.clone() });
        }
        Some(IncludeResult { name: path, data: text })
    }
}

fn failure(error: &GlslangError, source: &Source) -> String {
    let log = match error {
        GlslangError::PreprocessError(log)
        | GlslangError::ParseError(log)
        | GlslangError::MapIoError(log)
        | GlslangError::LinkError(log) => &log.log,
        other => return format!("{}: {other}", source.path),
    };
    let lines = message_lines(log, &source.path);
    if lines.is_empty() { format!("{}: does not compile", source.path) } else { lines.join("\n") }
}

/// The compiler's messages as `path:line:column: message`. The compiler calls the shader itself
/// `0`, and an included file by the path that the include handler gave it.
fn message_lines(log: &str, path: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in log.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (kind, rest) = match line.split_once(": ") {
            Some(("ERROR", rest)) => ("", rest),
            Some(("WARNING", rest)) => ("warning: ", rest),
            _ => ("", line),
        };
        // The count of errors at the end says nothing that the errors do not.
        if rest.ends_with("compilation errors.  No code generated.") {
            continue;
        }
        match rest.strip_prefix("0:") {
            Some(rest) => lines.push(format!("{kind}{path}:{rest}")),
            None if kind.is_empty() && !line.starts_with("ERROR") => lines.push(format!("{path}: {rest}")),
            None => lines.push(format!("{kind}{rest}")),
        }
    }
    lines
}
