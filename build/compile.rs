//! GLSL to SPIR-V for Vulkan, with messages that name the file at fault.

use crate::kernel::Source;
use glslang::error::GlslangError;
use glslang::include::{IncludeHandler, IncludeResult, IncludeType};
use glslang::{
    Compiler, CompilerOptions, Shader, ShaderInput, ShaderMessage, ShaderSource, ShaderStage, SourceLanguage,
    SpirvVersion, Target, VulkanVersion,
};
use rspirv::dr::{Instruction, Module, Operand};
use rspirv::spirv::{BuiltIn, Decoration, ExecutionMode, Op, Word};
use std::path::Path;

/// A file that a kernel was compiled from.
pub struct File {
    /// As messages name it.
    pub path: String,
    pub text: String,
}

/// What the compiler made of a kernel.
pub struct Compiled {
    pub module: Module,
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

    let (mut words, log) = compiled.map_err(|error| failure(&error, source))?;
    let size_x = take_local_size_id(&mut words);
    let mut module = rspirv::dr::load_words(words)
        .map_err(|error| format!("{}: cannot parse the compiled SPIR-V: {error}", source.path))?;
    if let Some(x) = size_x {
        declare_local_size(&mut module, x).map_err(|error| format!("{}: {error}", source.path))?;
    }
    let mut files = vec![File { path: source.path.clone(), text: source.text.clone() }];
    files.extend(includes.files);
    Ok(Compiled { module, files, warnings: message_lines(&log, &source.path) })
}

/// From SPIR-V 1.6 on the compiler declares a workgroup's size by `OpExecutionModeId`, which rspirv does not
/// read at this place. Makes it the older declaration, and gives the constant that was the size in x.
fn take_local_size_id(words: &mut [u32]) -> Option<Word> {
    const HEADER: usize = 5;
    let mut at = HEADER;
    while at < words.len() {
        let length = (words[at] >> 16).max(1) as usize;
        let operands = at + 2..at + length;
        if words[at] & 0xffff == Op::ExecutionModeId as u32
            && words[operands.start] == ExecutionMode::LocalSizeId as u32
        {
            words[at] = words[at] & 0xffff_0000 | Op::ExecutionMode as u32;
            let x = words[at + 3];
            words[operands].copy_from_slice(&[ExecutionMode::LocalSize as u32, 1, 1, 1]);
            return Some(x);
        }
        at += length;
    }
    None
}

/// Says that `gl_WorkGroupSize`, which the compiler made of a second constant of the same id, is the built-in
/// that stands above the declaration; the first constant is of no more use.
fn declare_local_size(module: &mut Module, x: Word) -> Result<(), String> {
    let spec_id = |a: &Instruction| match a.operands.as_slice() {
        [Operand::IdRef(of), Operand::Decoration(Decoration::SpecId), Operand::LiteralBit32(id)] => {
            Some((*of, *id))
        }
        _ => None,
    };
    let ids: Vec<(Word, u32)> = module.annotations.iter().filter_map(spec_id).collect();
    let its_id = ids.iter().find(|(of, _)| *of == x).map(|(_, id)| *id);
    let second = ids.iter().find(|(of, id)| *of != x && Some(*id) == its_id).map(|(of, _)| *of);
    let second = second.ok_or("the workgroup's size in x must be a specialization constant")?;
    let is_size = |global: &&Instruction| {
        global.class.opcode == Op::SpecConstantComposite
            && global.operands.first() == Some(&Operand::IdRef(second))
    };
    let size = module.types_global_values.iter().find(is_size).and_then(|global| global.result_id);
    let size = size.ok_or("gl_WorkGroupSize is not declared")?;
    module.types_global_values.retain(|global| global.result_id != Some(x));
    module.annotations.retain(|a| a.operands.first() != Some(&Operand::IdRef(x)));
    let built_in = vec![
        Operand::IdRef(size),
        Operand::Decoration(Decoration::BuiltIn),
        Operand::BuiltIn(BuiltIn::WorkgroupSize),
    ];
    module.annotations.push(Instruction::new(Op::Decorate, None, None, built_in));
    Ok(())
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
