"""The command lines of the two tools' own guides, as they are pasted."""

from __future__ import annotations

COMMANDS = {
    "internvl2-8b-w8a8": "python quant_internvl2.py  --model_path {浮点权重路径} --calib_images {校准图片路径}  "
    "--save_directory {量化权重保存路径} --w_bit 8 --a_bit 8 --device_type npu --is_8B_model --trust_remote_code True "
    "--mindie_format",
    "internvl2-40b-w8a8": "export ASCEND_RT_VISIBLE_DEVICES=0,1,2,3,4,5,6,7\n"
    "python quant_internvl2.py  --model_path {浮点权重路径} --calib_images {校准图片路径} \\\n"
    "  --save_directory {量化权重保存路径} --w_bit 8 --a_bit 8 --device_type npu --trust_remote_code True --mindie_format",
    "internlm2-20b-w8a8": "python3 quant_internlm2.py --model_path {浮点权重路径} --save_directory {W8A8量化权重路径} "
    "--w_bit 8 --a_bit 8 --device_type npu --trust_remote_code True",
    "internlm2-20b-w8a16": "python3 quant_internlm2.py --model_path {浮点权重路径} --save_directory {W8A16量化权重路径} "
    "--w_bit 8 --a_bit 16 --device_type npu --anti_method m1 --trust_remote_code True",
    "internlm2-20b-w8a8-c8": "python3 quant_internlm2.py --model_path {浮点权重路径} --save_directory {W8A8C8量化权重路径} "
    "--w_bit 8 --a_bit 8 --device_type npu --use_kvcache_quant True --disable_level L5 --trust_remote_code True",
    "chatglm2-6b-w8a8": "OMP_NUM_THREADS=48 torchrun --nproc_per_node 2 quant_chatglm2.py --model_path=./chatglm2-6b "
    "--save_directory ./out --w_bit 8 --a_bit 8 --act_method 3 --anti_method m4 --trust_remote_code True",
    "chatglm2-6b-w8a16": "python3 quant_chatglm2.py --model_path ./chatglm2-6b --save_directory ./out --w_bit 8 --a_bit 16 "
    "--w_sym False",
    "chatglm2-6b-w4a16": "python3 quant_chatglm2.py --model_path ./chatglm2-6b --save_directory ./out --w_bit 4 --a_bit 16 "
    "--is_lowbit True --open_outlier False --group_size 128",
    "lmdeploy-calibrate": "lmdeploy lite calibrate \\\n  --model /root/internlm-chat-7b/ \\\n  --calib_dataset 'c4' \\\n"
    "  --calib_samples 128 \\\n  --calib_seqlen 2048 \\\n  --work_dir ./quant_output",
    "lmdeploy-kv-qparams": "lmdeploy lite kv_qparams \\\n  --work_dir ./quant_output \\\n"
    "  --turbomind_dir workspace/triton_models/weights/ \\\n  --kv_bits 8 \\\n  --kv_sym False \\\n  --num_tp 1",
    "lmdeploy-auto-awq": "lmdeploy lite auto_awq /root/internlm2-chat-1_8b --calib-dataset 'ptb' --calib-samples 128 "
    "--calib-seqlen 1024 --w-bits 4 --w-group-size 128 --work-dir /root/internlm2-chat-1_8b-4bit",
    "lmdeploy-smooth-quant": "lmdeploy lite smooth_quant $HF_MODEL --work-dir $WORK_DIR --quant-dtype fp8 --device npu",
    "lmdeploy-auto-gptq": "lmdeploy lite auto_gptq internlm/internlm2_5-7b-chat --work-dir ./out --w-group-size 64",
}
"""Name of the golden file to the text."""
