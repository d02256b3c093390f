{{/* Names and labels. */}}

{{- define "vlmoe.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* 52 characters at most: a StatefulSet appends a hash to it in a label. */}}
{{- define "vlmoe.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "vlmoe.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "vlmoe.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "vlmoe.selectorLabels" -}}
app.kubernetes.io/name: {{ include "vlmoe.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "vlmoe.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "vlmoe.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "vlmoe.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "vlmoe.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "vlmoe.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "vlmoe.isGroup" -}}
{{- if gt (int64 .Values.expertParallel.nodes) 1 -}}true{{- end -}}
{{- end -}}

{{- define "vlmoe.workloadKind" -}}
{{- if include "vlmoe.isGroup" . -}}
LeaderWorkerSet
{{- else -}}
{{- ternary "StatefulSet" "Deployment" .Values.collections.enabled -}}
{{- end -}}
{{- end -}}

{{/* A LeaderWorkerSet makes a headless Service of its own name, which ours must not have, and StatefulSets of longer ones. */}}
{{- define "vlmoe.workloadName" -}}
{{- if include "vlmoe.isGroup" . -}}
{{- printf "%s-group" (include "vlmoe.fullname" . | trunc 40 | trimSuffix "-") -}}
{{- else -}}
{{- include "vlmoe.fullname" . -}}
{{- end -}}
{{- end -}}

{{- define "vlmoe.workloadApi" -}}
{{- ternary "leaderworkerset.x-k8s.io/v1" "apps/v1" (eq (include "vlmoe.isGroup" .) "true") -}}
{{- end -}}

{{/* The pods that have doors. */}}
{{- define "vlmoe.doorLabels" -}}
{{ include "vlmoe.selectorLabels" . }}
{{- if include "vlmoe.isGroup" . }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}
{{- end -}}

{{/* The selector by which dashboards' rules find this release's series. */}}
{{- define "vlmoe.series" -}}
{{- printf "job=%q,namespace=%q" (include "vlmoe.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "vlmoe.autoscaled" -}}
{{- if ne .Values.autoscaling.kind "none" -}}true{{- end -}}
{{- end -}}

{{- define "vlmoe.tlsName" -}}
{{- default (printf "%s.%s.svc" (include "vlmoe.fullname" .) .Release.Namespace) .Values.tls.serverName -}}
{{- end -}}
