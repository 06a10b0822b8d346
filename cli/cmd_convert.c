/* SPDX-License-Identifier: Apache-2.0
 * `w4a16 convert`: a quantised checkpoint to another format, without loss. */
#include "options.h"
#include "rewrite.h"

static const command_help help = {
    "PATH -o OUT --format F [options]",
    "Rewrite a quantised checkpoint in another format. Every weight keeps its value; where the\n"
    "target format cannot hold a layer (such as act-order in AWQ) the command says which and writes\n"
    "nothing. PATH is a .safetensors file or a model folder; OUT is of the same kind.\n\n"
    "OUT appears only when it is complete; Ctrl-C leaves nothing behind.",
    "  w4a16 convert model-awq/ -o model-gptq/ --format gptq\n"
    "  w4a16 convert model-gptq/ -o model-ct/ --format compressed-tensors --force",
    "PATH is damaged, the format cannot hold a layer, OUT exists or cannot be written",
};

int command_convert(int argc, char **argv) {
    const char *path, *output = NULL;
    bool force = false, json = false;
    int format = W4A16_FORMAT_NONE, exit_code;
    const option_spec options[] = {
        {"output", 'o', OPTION_TEXT, "OUT", &output, "the file or folder to write (required)", 0, 0, 0, true},
        {"format", 0, OPTION_CHOICE, "F", &format, "compressed-tensors, gptq (v2) or awq (required)", 0, 0, formats,
         true},
        OPTION_ENTRY_FORCE(&force),
        OPTION_ENTRY_JSON(&json),
        {0},
    };
    if (!parse_options(&help, options, argc, argv, &path, &exit_code)) return exit_code;

    rewrite work;
    w4a16_convert_options convert;
    if (!output_allowed(output, force)) return EXIT_RUNTIME;
    w4a16_convert_options_init(&convert);
    convert.format = (w4a16_format)format;
    convert.overwrite = force;
    convert.progress = rewrite_progress;
    convert.user = &work;
    rewrite_begin(&work);
    w4a16_status status = w4a16_checkpoint_convert(path, output, &convert);
    return rewrite_finish(&work, status, path, output, convert.format, false, json);
}
