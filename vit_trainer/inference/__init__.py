"""Inference: what a model sees and says once it is trained.

evaluate_checkpoint   how good a released checkpoint is with its own head
classifier            a model with its head, which sees image files as the evaluation does
scores                what follows from kept predictions: intervals, classes, paired tests, votes
attention             the weights of every head, and their rollout
attention_figure      draws them
onnx_file             a model as ONNX, checked with onnxruntime
served_model          a fine-tuned model in MLflow's form
"""
