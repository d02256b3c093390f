{{/* The pod of the Deployment, of the StatefulSet and of the LeaderWorkerSet. */}}

{{/* Numbers as people write them: 64000000, where Go would print 6.4e+07. */}}
{{- define "vlmoe.scalar" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- define "vlmoe.modelPath" -}}
{{- if .demo -}}demo
{{- else if .claim -}}/models/{{ .name }}
{{- else if .archive -}}/fetched/{{ .name }}
{{- else -}}{{ .path }}
{{- end -}}
{{- end -}}

{{- define "vlmoe.args" -}}
- serve
{{- range .Values.models }}
- --model
- {{ printf "%s=%s" .name (include "vlmoe.modelPath" .) | quote }}
{{- end }}
- --host
- "0.0.0.0"
- --port
- "8000"
- --grpc-port
- {{ ternary "8001" "0" .Values.grpc.enabled | quote }}
- --data-dir
- /data
- --drain-s
- {{ include "vlmoe.scalar" .Values.drainSeconds | quote }}
{{- if include "vlmoe.isGroup" . }}
- --nodes
- {{ .Values.expertParallel.nodes | toString | quote }}
- --node-rank
- "$(NODE_RANK)"
- --ranks
- {{ mul .Values.expertParallel.nodes .Values.expertParallel.ranksPerNode | toString | quote }}
- --rendezvous
- {{ printf "$(LWS_LEADER_ADDRESS):%v" (int64 .Values.expertParallel.port) | quote }}
{{- if .Values.expertParallel.existingSecret }}
- --rendezvous-key-file
- {{ printf "/group/%s" .Values.expertParallel.key | quote }}
{{- end }}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
- --api-key-file
- {{ printf "/keys/%s" .Values.apiKeys.key | quote }}
{{- end }}
{{- if .Values.modelLoading.claim }}
- --model-root
- /loadable
- --admin-key-file
- {{ printf "/admin/%s" .Values.modelLoading.adminKey | quote }}
{{- end }}
{{- if .Values.tls.existingSecret }}
- --tls-cert
- {{ printf "/tls/%s" .Values.tls.certKey | quote }}
- --tls-key
- {{ printf "/tls/%s" .Values.tls.keyKey | quote }}
{{- end }}
{{- range $name, $value := .Values.options }}
{{- if not (kindIs "invalid" $value) }}
- --{{ kebabcase $name }}
{{- if kindIs "slice" $value }}
{{- range $value }}
- {{ include "vlmoe.scalar" . | quote }}
{{- end }}
{{- else }}
- {{ include "vlmoe.scalar" $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ tpl . $ | quote }}
{{- end }}
{{- end -}}

{{- define "vlmoe.hasArchive" -}}
{{- range .Values.models }}{{ if .archive }}true{{ end }}{{ end -}}
{{- end -}}

{{- define "vlmoe.spread" -}}
{{- if .Values.topologySpreadConstraints -}}
{{ toYaml .Values.topologySpreadConstraints }}
{{- else -}}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
- maxSkew: 1
  topologyKey: {{ . }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "vlmoe.selectorLabels" $ | nindent 6 }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "vlmoe.podTemplate" -}}
metadata:
  annotations:
    kubectl.kubernetes.io/default-container: vlmoe
    {{- if include "vlmoe.hasArchive" . }}
    checksum/scripts: {{ .Files.Get "files/fetch_model.py" | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  labels:
    {{- include "vlmoe.selectorLabels" . | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "vlmoe.serviceAccountName" . }}
  automountServiceAccountToken: false
  # the variables it would add for a Service named vlmoe-serve-... look like options to the server
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "vlmoe.graceSeconds" . }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or (include "vlmoe.hasArchive" .) .Values.extraInitContainers }}
  initContainers:
    {{- range .Values.models }}
    {{- if .archive }}
    - name: fetch-{{ .name | lower | replace "." "-" | replace "_" "-" | trunc 50 | trimSuffix "-" }}
      image: {{ include "vlmoe.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      command: [python, /scripts/fetch_model.py]
      args:
        - {{ .archive.url | quote }}
        - {{ .archive.sha256 | quote }}
        - {{ include "vlmoe.modelPath" . | quote }}
      {{- with .archive.authorization }}
      env:
        - name: AUTHORIZATION
          valueFrom:
            secretKeyRef:
              name: {{ .secretName }}
              key: {{ .key }}
      {{- end }}
      securityContext:
        {{- toYaml $.Values.securityContext | nindent 8 }}
      resources:
        requests:
          cpu: 100m
          memory: 64Mi
        limits:
          memory: 512Mi
      volumeMounts:
        - name: scripts
          mountPath: /scripts
          readOnly: true
        - name: fetched
          mountPath: /fetched
    {{- end }}
    {{- end }}
    {{- with .Values.extraInitContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  {{- end }}
  containers:
    - name: vlmoe
      image: {{ include "vlmoe.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [vlmoe]
      args:
        {{- include "vlmoe.args" . | nindent 8 }}
      {{- if or (include "vlmoe.isGroup" .) .Values.extraEnv }}
      env:
        {{- if include "vlmoe.isGroup" . }}
        - name: NODE_RANK
          valueFrom:
            fieldRef:
              fieldPath: metadata.labels['leaderworkerset.sigs.k8s.io/worker-index']
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- tpl (toYaml .) $ | nindent 8 }}
        {{- end }}
      {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- tpl (toYaml .) $ | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 8000
          protocol: TCP
        {{- if include "vlmoe.isGroup" . }}
        - name: rendezvous
          containerPort: {{ .Values.expertParallel.port }}
          protocol: TCP
        {{- end }}
        {{- if .Values.grpc.enabled }}
        - name: grpc
          containerPort: 8001
          protocol: TCP
        {{- end }}
      startupProbe:
        httpGet:
          path: /readyz
          port: http
          {{- if .Values.tls.existingSecret }}
          scheme: HTTPS
          {{- end }}
        {{- toYaml .Values.startupProbe | nindent 8 }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
          {{- if .Values.tls.existingSecret }}
          scheme: HTTPS
          {{- end }}
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      livenessProbe:
        httpGet:
          path: /healthz
          port: http
          {{- if .Values.tls.existingSecret }}
          scheme: HTTPS
          {{- end }}
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      {{- if .Values.preStopSeconds }}
      lifecycle:
        preStop:
          # SIGTERM refuses new requests at once, so it must come after endpoints have forgotten this pod
          exec:
            command: [sleep, {{ .Values.preStopSeconds | toString | quote }}]
      {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: data
          mountPath: /data
        - name: tmp
          mountPath: /tmp
        {{- if .Values.sharedMemorySize }}
        - name: shared-memory
          mountPath: /dev/shm
        {{- end }}
        {{- if include "vlmoe.hasArchive" . }}
        - name: fetched
          mountPath: /fetched
          readOnly: true
        {{- end }}
        {{- range .Values.models }}
        {{- if .claim }}
        - name: claim-{{ .claim.name }}
          mountPath: {{ include "vlmoe.modelPath" . }}
          {{- with .claim.subPath }}
          subPath: {{ . | quote }}
          {{- end }}
          readOnly: true
        {{- end }}
        {{- end }}
        {{- if and (include "vlmoe.isGroup" .) .Values.expertParallel.existingSecret }}
        - name: group-key
          mountPath: /group
          readOnly: true
        {{- end }}
        {{- if .Values.apiKeys.existingSecret }}
        - name: keys
          mountPath: /keys
          readOnly: true
        {{- end }}
        {{- with .Values.modelLoading.claim }}
        - name: loadable
          mountPath: /loadable
          {{- with .subPath }}
          subPath: {{ . | quote }}
          {{- end }}
          readOnly: true
        - name: admin
          mountPath: /admin
          readOnly: true
        {{- end }}
        {{- if .Values.tls.existingSecret }}
        - name: tls
          mountPath: /tls
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- tpl (toYaml .) $ | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    {{- with .Values.sharedMemorySize }}
    - name: shared-memory
      emptyDir:
        medium: Memory
        sizeLimit: {{ . }}
    {{- end }}
    {{- if not .Values.collections.enabled }}
    - name: data
      emptyDir:
        sizeLimit: {{ .Values.collections.emptyDirSizeLimit }}
    {{- else if .Values.collections.existingClaim }}
    - name: data
      persistentVolumeClaim:
        claimName: {{ .Values.collections.existingClaim }}
    {{- end }}
    {{- if include "vlmoe.hasArchive" . }}
    - name: scripts
      configMap:
        name: {{ include "vlmoe.fullname" . }}-scripts
    - name: fetched
      emptyDir:
        sizeLimit: {{ .Values.modelsSizeLimit }}
    {{- end }}
    {{- $claims := list }}
    {{- range .Values.models }}
    {{- if and .claim (not (has .claim.name $claims)) }}
    {{- $claims = append $claims .claim.name }}
    - name: claim-{{ .claim.name }}
      persistentVolumeClaim:
        claimName: {{ .claim.name }}
        readOnly: true
    {{- end }}
    {{- end }}
    {{- if and (include "vlmoe.isGroup" .) .Values.expertParallel.existingSecret }}
    - name: group-key
      secret:
        secretName: {{ .Values.expertParallel.existingSecret }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.apiKeys.existingSecret }}
    - name: keys
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- if .Values.modelLoading.claim }}
    - name: loadable
      persistentVolumeClaim:
        claimName: {{ .Values.modelLoading.claim.name }}
        readOnly: true
    - name: admin
      secret:
        secretName: {{ .Values.modelLoading.adminSecret }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.tls.existingSecret }}
    - name: tls
      secret:
        secretName: {{ . }}
        defaultMode: 0440
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  topologySpreadConstraints:
    {{- include "vlmoe.spread" . | trim | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ . }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
